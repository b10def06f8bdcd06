//! The machine as its users see it: made once, saved, started from the file,
//! asked to run commands.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, BufWriter, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::kernel::Kernel;
use crate::machine::{self, Accelerator, Machine, Start};
use crate::pack::{self, Tree};
use crate::wire::{
    self, CHUNK, Decoder, End, FromGuest, Request, Rubbish, ToGuest, User,
};
use crate::{Failure, programs};

/// How long a boot may take, from the start of QEMU to the guest's hello.
const BOOT: Duration = Duration::from_secs(60);

/// The same for KVM, which either starts fast or not at all.
const KVM_BOOT: Duration = Duration::from_secs(15);

/// The same for a start from the saved state.
const RESTORE: Duration = Duration::from_secs(20);

/// So many saved states stay: of other kernels, other builds.
const STATES: usize = 4;

/// All that goes into a machine.
#[derive(Debug)]
pub struct Harness {
    cache: PathBuf,
    kernel: Kernel,
    accelerator: Accelerator,
    init: PathBuf,
    /// Where in the guest, and what of this machine.
    programs: Vec<(PathBuf, PathBuf)>,
}

impl Harness {
    /// Builds the demos, finds the kernel, QEMU and the tools. `init` is the
    /// `harness` program, which is the guest's PID 1 too; `extra` a program
    /// that goes in besides, at its own path.
    pub fn new(init: &Path, extra: Option<&Path>) -> Result<Harness, Failure> {
        let demos = programs::build()?;
        // .../target/debug/harness
        let target = init.ancestors().nth(2).unwrap_or(init);
        let cache = target.join("harness-cache");
        fs::create_dir_all(&cache)
            .map_err(|error| Failure::because(cache.display(), error))?;

        let named = |dir: &str, path: &Path| {
            Path::new(dir).join(path.file_name().unwrap_or_default())
        };
        let mut programs = Vec::new();
        for demo in demos {
            programs.push((named("/usr/local/bin", &demo), demo));
        }
        for (name, tool) in pack::tools()? {
            programs.push((Path::new("/usr/bin").join(name), tool));
        }
        for file in pack::comfort() {
            programs.push((file.clone(), file));
        }
        if let Some(path) = extra {
            programs.push((path.to_path_buf(), path.to_path_buf()));
        }
        let kernel = Kernel::find(&cache)?;
        let no_kvm = cache.join("no-kvm");
        let accelerator = Accelerator::choose(&no_kvm)?;
        let init = init.to_path_buf();
        let mut harness =
            Harness { cache, kernel, accelerator, init, programs };
        let made = harness.state();
        if let Err(failure) = &made
            && accelerator == Accelerator::Kvm
            && std::env::var_os("HARNESS_ACCEL").is_none()
        {
            // It opens, and no guest starts: not worth another try.
            crate::say(format_args!("no KVM here: {failure}"));
            let _ = fs::write(no_kvm, failure.to_string());
            harness.accelerator = Accelerator::Tcg;
            harness.state()?;
            return Ok(harness);
        }
        made.map(|_| harness)
    }

    /// The kernel's release and the accelerator, in words.
    pub fn describe(&self) -> String {
        let accelerator = self.accelerator.name();
        format!("Linux {} under {accelerator}", self.kernel.release)
    }

    /// The kernel's image, as the distribution ships it.
    pub fn kernel(&self) -> &Path {
        &self.kernel.image
    }

    /// A machine that nobody has touched.
    pub fn start(&self) -> Result<Vm, Failure> {
        let state = self.state()?;
        let manifest = state.join("manifest");
        let tried = stamp(&manifest).ok();
        let failure = match Vm::restore(&state, self.accelerator) {
            Ok(vm) => return Ok(vm),
            Err(failure) => failure,
        };
        // Every file is as it was written, and yet it does not run.
        eprintln!("harness: the saved machine is damaged: {failure}");
        let lock = self.lock()?;
        // Somebody else may have made it anew while we tried.
        if stamp(&manifest).ok() == tried {
            let _ = fs::remove_dir_all(&state);
        }
        drop(lock);
        Vm::restore(&self.state()?, self.accelerator)
    }

    /// Of those who make or remove a saved machine there is one at a time.
    fn lock(&self) -> Result<Flock<File>, Failure> {
        let path = self.cache.join("lock");
        let fail = |error| Failure::because(path.display(), error);
        let lock = File::create(&path).map_err(fail)?;
        Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| fail(errno.into()))
    }

    /// The folder of the saved machine, which is made if there is none.
    fn state(&self) -> Result<PathBuf, Failure> {
        let text = self.inputs()?;
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let dir = self.cache.join(format!("state-{:016x}", hasher.finish()));
        if whole(&dir, &text) {
            // The time of its last use. That it cannot be set is no fault.
            let _ = File::open(&dir)
                .and_then(|dir| dir.set_modified(SystemTime::now()));
            return Ok(dir);
        }

        let _lock = self.lock()?;
        // Somebody else may have made it while we waited.
        if !whole(&dir, &text) {
            let new = self.cache.join("new");
            let made = self.make(&new, &text);
            if made.is_ok() {
                let _ = fs::remove_dir_all(&dir);
                fs::rename(&new, &dir).map_err(|error| {
                    Failure::because(self.cache.display(), error)
                })?;
                prune(&self.cache);
            }
            let _ = fs::remove_dir_all(&new);
            made?;
        }
        Ok(dir)
    }

    /// Everything that the machine is made of, a line each.
    fn inputs(&self) -> Result<String, Failure> {
        let mut text = format!("{:?}\n", self.accelerator);
        let qemu = machine::qemu()?;
        let mut files = vec![&qemu, &self.init, &self.kernel.image];
        files.extend(self.programs.iter().map(|(_, source)| source));
        for file in files {
            text += &stamp(file)?;
        }
        for (at, _) in &self.programs {
            let _ = writeln!(text, "{}", at.display());
        }
        Ok(text)
    }

    /// Boots a machine in the folder `new`, and saves it there.
    fn make(&self, new: &Path, inputs: &str) -> Result<(), Failure> {
        let begun = Instant::now();
        crate::say(format_args!("booting {}", self.describe()));
        let fail = |error: io::Error| Failure::because(new.display(), error);
        let _ = fs::remove_dir_all(new);
        fs::create_dir_all(new).map_err(fail)?;

        // Side by side: each takes a while.
        let (sources, kernel) = thread::scope(|scope| {
            let kernel = scope.spawn(|| self.unpack(&new.join("kernel")));
            let sources = self.pack(&new.join("initramfs"));
            (sources, kernel.join().expect("no panic"))
        });
        let (sources, ()) = (sources?, kernel.map_err(fail)?);

        let machine = Machine::start(new, self.accelerator, Start::Boot)?;
        let mut vm = Vm::new(machine);
        vm.machine.negotiate()?;
        let patience = match self.accelerator {
            Accelerator::Kvm => KVM_BOOT,
            Accelerator::Tcg => BOOT,
        };
        vm.ready(patience)?;
        vm.machine.save(new)?;
        drop(vm);

        // Written last: what has this file is whole. It names what went in,
        // and what came out, so that damage to either is noticed.
        let mut manifest = inputs.to_string();
        for source in &sources {
            manifest += &stamp(source)?;
        }
        for made in ["kernel", "initramfs", "memory", "state"] {
            manifest += &stamp(&new.join(made))?;
        }
        // The folder gets its real name afterwards.
        fs::write(new.join("manifest"), manifest).map_err(fail)?;
        crate::say(format_args!("saved after {:.1?}", begun.elapsed()));
        Ok(())
    }

    /// Writes the guest's files. Returns where each came from.
    fn pack(&self, to: &Path) -> Result<Vec<PathBuf>, Failure> {
        let mut tree = Tree::new();
        tree.program(Path::new("/init"), &self.init)?;
        for (at, source) in &self.programs {
            tree.program(at, source)?;
        }
        for module in self.kernel.modules(&["dummy"])? {
            let at = format!("/lib/modules/{}.ko", module.name);
            tree.file(Path::new(&at), 0o644, module.bytes);
            tree.sources.push(module.path);
        }
        File::create(to)
            .and_then(|file| tree.write(BufWriter::new(file)))
            .map_err(|error| Failure::because(to.display(), error))?;
        Ok(tree.sources)
    }

    /// Writes the kernel as QEMU enters it at once, where that can be done.
    fn unpack(&self, to: &Path) -> io::Result<()> {
        match self.kernel.unpacked()? {
            Some(kernel) => fs::write(to, kernel),
            None => fs::copy(&self.kernel.image, to).map(drop),
        }
    }
}

/// Removes the states that were not used for longest, so that they do not
/// pile up.
fn prune(cache: &Path) {
    let entries = fs::read_dir(cache).into_iter().flatten().flatten();
    let mut states: Vec<_> = entries
        .filter(|e| e.file_name().as_bytes().starts_with(b"state-"))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    states.sort();
    let surplus = states.len().saturating_sub(STATES);
    for (_, path) in &states[..surplus] {
        let _ = fs::remove_dir_all(path);
    }
}

/// Whether a saved state is complete, and everything as it was then.
fn whole(dir: &Path, inputs: &str) -> bool {
    let Ok(manifest) = fs::read_to_string(dir.join("manifest")) else {
        return false;
    };
    let Some(rest) = manifest.strip_prefix(inputs) else { return false };
    rest.lines().all(|line| {
        let Some((_, path)) = line.split_once(' ') else { return false };
        let path = Path::new(path);
        let name = path.file_name().unwrap_or_default();
        let now = match path.parent().and_then(Path::file_name) {
            Some(new) if new == "new" => stamp_as(path, &dir.join(name)),
            _ => stamp(path),
        };
        now.is_ok_and(|now| now.trim_end() == line)
    })
}

/// A file's identity: it changes whenever the file is written or replaced.
fn stamp(path: &Path) -> Result<String, Failure> {
    stamp_as(path, path)
}

fn stamp_as(name: &Path, path: &Path) -> Result<String, Failure> {
    let found = fs::metadata(path)
        .map_err(|error| Failure::because(path.display(), error))?;
    let (seconds, nanos) = (found.mtime(), found.mtime_nsec());
    let (node, length) = (found.ino(), found.len());
    Ok(format!("{node}-{length}-{seconds}.{nanos} {}\n", name.display()))
}

/// A machine that waits for commands.
#[derive(Debug)]
pub struct Vm {
    machine: Machine,
    decoder: Decoder,
    heard: VecDeque<FromGuest>,
}

/// Where a command's input comes from.
#[derive(Debug)]
pub enum Input<'a> {
    /// These bytes, and then the end.
    Bytes(&'a [u8]),
    /// What can be read here.
    Stream(BorrowedFd<'a>),
}

/// What has happened to the reader's terminal.
pub type Event<'a> = dyn FnMut() -> Option<(u16, u16)> + 'a;

/// A command's streams and its time.
pub struct Io<'a> {
    /// Standard input.
    pub input: Input<'a>,
    /// Standard output, or all that the terminal shows.
    pub output: &'a mut dyn Write,
    /// Standard error.
    pub errors: &'a mut dyn Write,
    /// How long the command may take, once the machine is ready.
    pub patience: Option<Duration>,
    /// Readable when something happens to the terminal; and what: its new
    /// rows and columns, or `None` where it is time to stop.
    pub events: Option<(BorrowedFd<'a>, &'a mut Event<'a>)>,
}

impl Vm {
    fn new(machine: Machine) -> Vm {
        let (decoder, heard) = (Decoder::default(), VecDeque::new());
        Vm { machine, decoder, heard }
    }

    fn restore(dir: &Path, accelerator: Accelerator) -> Result<Vm, Failure> {
        let deadline = Instant::now() + RESTORE;
        let machine = Machine::start(dir, accelerator, Start::State)?;
        let mut vm = Vm::new(machine);
        vm.machine.negotiate()?;
        vm.machine.restore()?;
        vm.greet(deadline)?;
        Ok(vm)
    }

    /// What the console has said, the last of it.
    pub fn console(&self) -> String {
        self.machine.console()
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// Where there is no verdict: the machine has died, or time is up, or
    /// the streams on this side are broken.
    pub fn run(
        &mut self,
        request: &Request,
        mut io: Io,
    ) -> Result<End, Failure> {
        let deadline = io.patience.map(|patience| Instant::now() + patience);
        let request = postcard::to_stdvec(request).expect("plain data");
        let parts: Vec<_> = request.chunks(CHUNK).collect();
        let (last, parts) = parts.split_last().expect("it says who, at least");
        for part in parts {
            self.tell(&ToGuest::Part(part.to_vec()))?;
            loop {
                match self.hear(deadline)? {
                    Some(FromGuest::Taken) => break,
                    Some(_) => {} // Said twice, when shaking hands.
                    None => return Err(self.late(io.patience)),
                }
            }
        }
        // The input has not ended.
        let mut open = !matches!(io.input, Input::Bytes([]));
        self.tell(&ToGuest::Run { part: last.to_vec(), input: open })?;

        let mut free = true; // The guest has room for input.
        loop {
            if open
                && free
                && let Input::Bytes(bytes) = &mut io.input
            {
                let (now, later) = bytes.split_at(bytes.len().min(CHUNK));
                let end = now.is_empty();
                self.tell(&ToGuest::Input(now.to_vec()))?;
                *bytes = later;
                (open, free) = (!end, false);
            }
            let mut fds = vec![PollFd::new(
                self.machine.output.as_fd(),
                PollFlags::POLLIN,
            )];
            let mut input = None;
            if open
                && free
                && let Input::Stream(stream) = &io.input
            {
                input = Some(fds.len());
                fds.push(PollFd::new(*stream, PollFlags::POLLIN));
            }
            let mut event = None;
            if let Some((fd, _)) = &io.events {
                event = Some(fds.len());
                fds.push(PollFd::new(*fd, PollFlags::POLLIN));
            }
            if !wait(&mut fds, deadline) {
                return Err(self.late(io.patience));
            }
            let woken = |at: Option<usize>| {
                at.is_some_and(|at| fds[at].any().unwrap_or_default())
            };
            let (wire, input, event) =
                (woken(Some(0)), woken(input), woken(event));

            if input && let Input::Stream(stream) = &io.input {
                let mut bytes = vec![0; CHUNK];
                // A terminal that is gone reads as an error: that is its end.
                let n = nix::unistd::read(stream, &mut bytes).unwrap_or(0);
                bytes.truncate(n);
                self.tell(&ToGuest::Input(bytes))?;
                (open, free) = (n > 0, false);
            }
            if event && let Some((_, what)) = &mut io.events {
                let Some((rows, columns)) = what() else {
                    return Err(self.machine.fail("ended by a signal"));
                };
                self.tell(&ToGuest::Resize(rows, columns))?;
            }
            if wire {
                self.read()?;
            }
            while let Some(message) = self.heard.pop_front() {
                let written = match message {
                    FromGuest::Out(bytes) => io.output.write_all(&bytes),
                    FromGuest::Err(bytes) => io.errors.write_all(&bytes),
                    FromGuest::Taken => {
                        free = true;
                        Ok(())
                    }
                    FromGuest::End(end) => return Ok(end),
                    // Said twice, when shaking hands.
                    _ => Ok(()),
                };
                if let Err(error) = written {
                    return Err(self.machine.fail(format!("write: {error}")));
                }
            }
        }
    }

    /// Runs a command, and collects what it writes.
    pub fn output(
        &mut self,
        user: User,
        argv: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &[u8],
        patience: Duration,
    ) -> Result<Output, Failure> {
        let argv = argv.into_iter().map(|arg| arg.as_ref().as_bytes().to_vec());
        let argv = argv.collect();
        let request = Request { argv, user, dir: None, terminal: None };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let io = Io {
            input: Input::Bytes(input),
            output: &mut stdout,
            errors: &mut stderr,
            patience: Some(patience),
            events: None,
        };
        let end = self.run(&request, io)?;
        if let End::NotStarted(errno) = end {
            let error = io::Error::from_raw_os_error(errno);
            let _ = write!(&mut stderr, "exec: {error}");
        }
        let status = match end {
            End::Killed(signal) => i32::from(signal),
            _ => i32::from(end.status()) << 8,
        };
        let status = ExitStatus::from_raw(status);
        Ok(Output { status, stdout, stderr })
    }

    /// Waits for a machine that boots.
    fn ready(&mut self, patience: Duration) -> Result<(), Failure> {
        match self.hear(Some(Instant::now() + patience))? {
            Some(FromGuest::Ready) => Ok(()),
            Some(FromGuest::Unfit(why)) => {
                Err(self.machine.fail(format!("the guest is unfit: {why}")))
            }
            Some(other) => {
                Err(self.machine.fail(format!("the guest says {other:?}")))
            }
            None => Err(self.machine.fail("the guest does not come up")),
        }
    }

    /// Shakes hands. The first byte into the port of a restored machine may
    /// get lost, so what is not answered is said again.
    fn greet(&mut self, deadline: Instant) -> Result<(), Failure> {
        for nonce in 0.. {
            let time = SystemTime::now().duration_since(UNIX_EPOCH);
            let time = time.unwrap_or_default();
            self.tell(&ToGuest::Hello { nonce, time })?;
            let soon = Instant::now() + Duration::from_millis(10);
            match self.hear(Some(soon))? {
                Some(FromGuest::Hello(_)) => break,
                _ if Instant::now() < deadline => {}
                _ => return Err(self.machine.fail("the guest is silent")),
            }
        }
        Ok(())
    }

    fn tell(&mut self, message: &ToGuest) -> Result<(), Failure> {
        let sent = self.machine.input.write_all(&wire::encode(message));
        sent.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => self.machine.fail("the machine hangs"),
            _ => self.machine.fail("the machine has ended"),
        })
    }

    /// The next message; `None` when the deadline comes first.
    fn hear(
        &mut self,
        deadline: Option<Instant>,
    ) -> Result<Option<FromGuest>, Failure> {
        while self.heard.is_empty() {
            let port = self.machine.output.as_fd();
            if !wait(&mut [PollFd::new(port, PollFlags::POLLIN)], deadline) {
                return Ok(None);
            }
            self.read()?;
        }
        Ok(self.heard.pop_front())
    }

    /// Takes in what the wire has, or waits for it.
    fn read(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; 16 * 1024];
        match self.machine.output.read(&mut bytes) {
            Ok(0) => Err(self.machine.fail("the machine has ended")),
            Ok(n) => {
                for byte in &bytes[..n] {
                    match self.decoder.push(*byte) {
                        Some(Ok(message)) => self.heard.push_back(message),
                        Some(Err(Rubbish)) => {
                            let what = "the guest sends rubbish";
                            return Err(self.machine.fail(what));
                        }
                        None => {}
                    }
                }
                if self.decoder.inside() {
                    // The rest is on its way, byte by byte, and each would
                    // wake us. A moment later they come together.
                    thread::sleep(Duration::from_micros(100));
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.machine.fail(format!("the wire: {error}"))),
        }
    }

    /// There is no verdict, and never will be.
    fn late(&mut self, patience: Option<Duration>) -> Failure {
        let patience = patience.unwrap_or_default();
        self.machine.fail(format!("no verdict: no end after {patience:?}"))
    }
}

/// Waits for one of these. False when the deadline has passed, whatever else
/// has happened: a guest that never stops talking does not stop the clock.
fn wait(fds: &mut [PollFd], deadline: Option<Instant>) -> bool {
    loop {
        let patience = match deadline {
            None => PollTimeout::NONE,
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return false;
                }
                let left = left.as_millis() + 1;
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        // No error but EINTR can be: there is no signal that it is for.
        if let Ok(1..) = poll(fds, patience) {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_file_makes_a_saved_state_worthless() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        let memory = dir.join("memory");
        fs::write(&memory, "1234").expect("a file");
        let made = stamp_as(Path::new("/cache/new/memory"), &memory);
        let made = made.expect("a stamp");
        fs::write(dir.join("manifest"), format!("inputs\n{made}"))
            .expect("a file");

        assert!(whole(dir, "inputs\n"));
        assert!(!whole(dir, "others\n"));
        File::options()
            .write(true)
            .open(&memory)
            .and_then(|file| file.set_len(3))
            .expect("a file");
        assert!(!whole(dir, "inputs\n"));
        fs::remove_file(&memory).expect("a file");
        assert!(!whole(dir, "inputs\n"));
        fs::remove_file(dir.join("manifest")).expect("a file");
        assert!(!whole(dir, "inputs\n"));
    }

    #[test]
    fn state_that_was_used_last_stays() {
        let cache = tempfile::tempdir().expect("a folder");
        let cache = cache.path();
        for (name, age) in
            [("1", 50), ("2", 10), ("3", 30), ("4", 40), ("5", 20)]
        {
            let dir = cache.join(format!("state-{name}"));
            fs::create_dir_all(dir.join("below")).expect("a folder");
            File::open(dir)
                .and_then(|dir| {
                    let age = Duration::from_secs(age);
                    dir.set_modified(SystemTime::now() - age)
                })
                .expect("a folder");
        }
        fs::create_dir(cache.join("package")).expect("a folder");
        prune(cache);
        let left = fs::read_dir(cache).expect("a folder").flatten();
        let mut left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(
            left,
            ["package", "state-2", "state-3", "state-4", "state-5"]
        );
    }
}
