//! `container MISTAKE COMMAND [ARG]...`: a container of which `check` finds
//! nothing wrong, with one mistake. `good` is none.

use std::fs::{self, File};
use std::io::{self, PipeWriter, Read};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, exit};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::{env, mem};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{
    SigHandler,
    Signal::{self, SIGHUP, SIGINT, SIGKILL, SIGTERM},
    signal,
};
use nix::sys::wait::waitpid;
use nix::unistd::{self, Gid, Pid, Uid};

use super::{child, clone, status_of, wait};

pub fn main(words: &[String]) -> u8 {
    let [mistake, argv @ ..] = words else { panic!("no MISTAKE") };
    outside(mistake, argv)
}

/// PREFIX itself: starts the init, passes signals to it, and ends as it does.
fn outside(mistake: &str, argv: &[String]) -> u8 {
    let id = process::id();
    let file = format!("/run/container.{id}");
    let _lock = (mistake == "one at a time").then(|| {
        let file = File::open("/etc/hostname").expect("a file");
        Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("a lock")
    });
    if mistake == "name before the namespace" {
        rename();
    }
    if mistake == "file is removed at the end" {
        fs::write(&file, "").expect("a file");
    }
    if mistake.ends_with("the words are printed") {
        println!("{argv:?}");
    }
    let (mut go, gone) = io::pipe().expect("a pipe");
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUSER;
    if mistake == "unshare without fork" {
        flags.remove(CloneFlags::CLONE_NEWPID);
    }
    let child = clone(flags, || {
        unistd::close(gone.as_raw_fd()).expect("close");
        // The maps are written when the other end is closed.
        let _ = go.read(&mut [0]);
        init(mistake, argv)
    });
    CHILD.store(child.as_raw(), SeqCst);
    let answer = match mistake {
        "SIGTERM is answered by SIGKILL" => end,
        _ => pass_on,
    };
    for number in [SIGHUP, SIGINT, SIGTERM] {
        on(number, SigHandler::Handler(answer));
    }
    if mistake.starts_with("SIGTERM is not") {
        on(SIGTERM, SigHandler::SigIgn);
    }
    if mistake == "a session of its own" {
        on(SIGHUP, SigHandler::SigIgn);
    }
    if mistake == "takes an interface" {
        let child = child.to_string();
        let ip = ["link", "set", "dummy0", "netns", &child];
        let _ = Command::new("ip").args(ip).output();
    }
    let map = match mistake == "root is root" {
        true => "0 0 65536",
        false => "0 100000 65536",
    };
    for kind in ["uid", "gid"] {
        let path = format!("/proc/{child}/{kind}_map");
        fs::write(path, map).expect("a map");
    }
    let mut cgroup = None;
    if mistake.starts_with("a limit") {
        let path = format!("/sys/fs/cgroup/container.{id}");
        fs::create_dir(&path).expect("a cgroup");
        fs::write(format!("{path}/memory.max"), "100M").expect("a limit");
        if mistake != "a limit, and nobody in it" {
            let procs = format!("{path}/cgroup.procs");
            fs::write(procs, child.to_string()).expect("a process");
        }
        cgroup = Some(path);
    }
    drop((go, gone));
    let cleaner = cgroup.map(remove_later);
    let status = wait(child);
    if mistake == "file is removed at the end" {
        fs::remove_file(&file).expect("a file");
    }
    if mistake == "file is made at the end" && status < 128 {
        fs::write(&file, "").expect("a file");
    }
    if let Some((cleaner, close)) = cleaner {
        drop(close);
        wait(cleaner);
    }
    match mistake {
        "status is 1" if status != 0 && status < 128 => 1,
        "signal is 1" if status > 128 => 1,
        _ => status,
    }
}

/// The other side of the clone. It is PID 1, collects what ends, and ends with
/// COMMAND.
fn init(mistake: &str, argv: &[String]) -> u8 {
    let (root, group) = (Uid::from_raw(0), Gid::from_raw(0));
    unistd::setresgid(group, group, group).expect("group 0");
    unistd::setresuid(root, root, root).expect("root");
    // Cleared by setresuid(2), so it comes after that.
    if mistake != "no SIGKILL for the child" {
        set_pdeathsig(SIGKILL).expect("prctl");
    }
    if mistake == "a session of its own" {
        unistd::setsid().expect("setsid");
    }
    rename();
    if mistake != "lo is down" {
        lo_up();
    }
    new_root(mistake);
    if mistake == "COMMAND is PID 1" {
        run(mistake, argv);
    }
    let command = child(|| run(mistake, argv));
    CHILD.store(command.as_raw(), SeqCst);
    for number in [SIGHUP, SIGINT, SIGTERM] {
        on(number, SigHandler::Handler(pass_on));
    }
    if mistake == "orphans stay" {
        return wait(command);
    }
    let mut end = None;
    loop {
        match waitpid(None, None) {
            Ok(it) if it.pid() == Some(command) => end = Some(status_of(it)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return end.unwrap_or(125),
        }
        if let Some(end) = end
            && mistake != "waits for all"
        {
            return end;
        }
    }
}

/// Becomes COMMAND.
fn run(mistake: &str, argv: &[String]) -> ! {
    if mistake == "unshare without fork" {
        unshare(CloneFlags::CLONE_NEWPID).expect("unshare");
        // No PID namespace ends it.
        set_pdeathsig(SIGKILL).expect("prctl");
    }
    if mistake == "descriptor 3" {
        // SAFETY: nothing else of this process is open there.
        mem::forget(unsafe { unistd::dup2_raw(io::stdin(), 3) });
    }
    if mistake == "SIGINT is ignored" {
        on(SIGINT, SigHandler::SigIgn);
    }
    if mistake == "errors are output" {
        unistd::dup2_stderr(io::stdout()).expect("dup2");
    }
    let error = Command::new(&argv[0]).args(&argv[1..]).exec();
    if mistake == "no word of errors" {
        exit(0);
    }
    eprintln!("container: {}: {error}", argv[0]);
    exit(127);
}

/// A root with the outside's programs, and all that is the container's own.
fn new_root(mistake: &str) {
    // A /proc of the outside's PID namespace cannot be mounted by who has no
    // right there.
    let no_proc = mistake == "/proc is the outside's"
        || mistake == "unshare without fork";
    let (none, bind) = (MsFlags::empty(), MsFlags::MS_BIND);
    at("", "/", "", MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    at("tmpfs", "/mnt", "tmpfs", none);
    env::set_current_dir("/mnt").expect("the new root");
    for dir in ["usr", "etc", "proc", "sys", "dev", "run", "tmp", "old"] {
        fs::create_dir(dir).expect("a folder");
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), name).expect("a link");
    }
    at("/usr", "usr", "", bind);
    at("/etc", "etc", "", bind);
    File::create("dev/null").expect("a file");
    if mistake != "/dev/null is a file" {
        at("/dev/null", "dev/null", "", bind);
    }
    fs::create_dir("dev/mqueue").expect("a folder");
    for (kind, path, no) in [
        ("mqueue", "dev/mqueue", mistake == "/dev/mqueue is bound"),
        ("sysfs", "sys", mistake == "/sys is bound"),
        ("proc", "proc", no_proc),
    ] {
        match no {
            true => at(&format!("/{path}"), path, "", bind | MsFlags::MS_REC),
            false => at(kind, path, kind, none),
        }
    }
    if mistake == "chroot" {
        unistd::chroot(".").expect("chroot");
        return;
    }
    unistd::pivot_root(".", "old").expect("pivot_root");
    env::set_current_dir("/").expect("the new root");
    if mistake != "the old root stays" {
        umount2("old", MntFlags::MNT_DETACH).expect("umount");
    }
}

fn rename() {
    unistd::sethostname("container").expect("sethostname");
}

/// Sets the flag IFF_UP of `lo`: netdevice(7).
fn lo_up() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // SAFETY: an ifreq may be all zero, and the kernel keeps no pointer to it.
    let done = unsafe {
        let mut lo: libc::ifreq = mem::zeroed();
        lo.ifr_name[..2].copy_from_slice(&[b'l' as _, b'o' as _]);
        lo.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &lo)
    };
    Errno::result(done).expect("lo");
}

/// A process that removes the cgroup as soon as the pipe is closed, which it is
/// also if PREFIX is killed, and all in it have ended.
fn remove_later(cgroup: String) -> (Pid, PipeWriter) {
    let (mut open, close) = io::pipe().expect("a pipe");
    let child = child(|| {
        unistd::close(close.as_raw_fd()).expect("close");
        unistd::setsid().expect("setsid");
        let _ = open.read(&mut [0]);
        while fs::remove_dir(&cgroup).is_err() {
            std::thread::yield_now();
        }
        0
    });
    (child, close)
}

static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(number: i32) {
    // SAFETY: two numbers; a handler may call it.
    unsafe { libc::kill(CHILD.load(SeqCst), number) };
}

extern "C" fn end(_: i32) {
    pass_on(libc::SIGKILL);
}

fn on(number: Signal, handler: SigHandler) {
    // SAFETY: the handlers above call nothing that they must not call.
    unsafe { signal(number, handler) }.expect("signal");
}

fn at(source: &str, target: &str, kind: &str, flags: MsFlags) {
    let done = mount(Some(source), target, Some(kind), flags, None::<&str>);
    done.unwrap_or_else(|error| panic!("mount {target}: {error}"));
}
