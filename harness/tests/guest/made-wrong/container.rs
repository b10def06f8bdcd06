//! `container MISTAKE COMMAND [ARG]...`: a container of which `check` finds
//! nothing wrong, with one mistake. `good` is none. Built by rustc alone, so the
//! C library's functions are declared here.

use std::ffi::{CString, c_char, c_int, c_long, c_ulong, c_void};
use std::fs::{self, File};
use std::io::{self, PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::{self, Command, exit};
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::{env, ptr};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: c_ulong,
        data: *const c_void,
    ) -> c_int;
    fn umount2(target: *const c_char, flags: c_int) -> c_int;
    fn unshare(flags: c_int) -> c_int;
    fn chroot(path: *const c_char) -> c_int;
    fn sethostname(name: *const c_char, length: usize) -> c_int;
    fn setresuid(real: u32, effective: u32, saved: u32) -> c_int;
    fn setresgid(real: u32, effective: u32, saved: u32) -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn kill(pid: c_int, number: c_int) -> c_int;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn setsid() -> c_int;
    fn dup2(from: c_int, to: c_int) -> c_int;
    fn flock(fd: c_int, operation: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

const NEWNS: c_int = 0x2_0000;
const NEWPID: c_int = 0x2000_0000;
const NEWUSER: c_int = 0x1000_0000;
const NEWUTS_IPC_NET: c_int = 0x400_0000 | 0x800_0000 | 0x4000_0000;

const HUP: c_int = 1;
const INT: c_int = 2;
const KILL: c_int = 9;
const TERM: c_int = 15;
const CHLD: c_int = 17;
const IGNORE: usize = 1;

const BIND: c_ulong = 0x1000;
const REC: c_ulong = 0x4000;
const PRIVATE: c_ulong = 0x4_0000;
const DETACH: c_int = 2;

const ARM: bool = cfg!(target_arch = "aarch64");
const CLONE: c_long = if ARM { 220 } else { 56 };
const PIVOT_ROOT: c_long = if ARM { 41 } else { 155 };
const PDEATHSIG: c_int = 1;

/// The one mistake.
struct Mistake(String);

impl Mistake {
    fn is(&self, name: &str) -> bool {
        self.0 == name
    }
}

fn main() {
    let mut argv: Vec<String> = env::args().skip(1).collect();
    let mistake = Mistake(argv.remove(0));
    exit(outside(&mistake, &argv));
}

/// PREFIX itself: starts the init, passes signals to it, and ends as it does.
fn outside(mistake: &Mistake, argv: &[String]) -> c_int {
    let id = process::id();
    let file = format!("/run/container.{id}");
    let lock = File::open("/etc/hostname").expect("a file");
    if mistake.is("one at a time") {
        checked("flock", unsafe { flock(lock.as_raw_fd(), 2 | 4) });
    }
    if mistake.is("name before the namespace") {
        rename();
    }
    if mistake.is("file is removed at the end") {
        fs::write(&file, "").expect("a file");
    }
    if mistake.0.ends_with("the words are printed") {
        println!("{argv:?}");
    }
    let (mut go, gone) = io::pipe().expect("a pipe");
    let mut flags = NEWNS | NEWUTS_IPC_NET | NEWPID | NEWUSER | CHLD;
    if mistake.is("unshare without fork") {
        flags &= !NEWPID;
    }
    // Like fork(2), but the child is in new namespaces.
    let child = unsafe { syscall(CLONE, flags as c_long, 0, 0, 0, 0) } as c_int;
    checked("clone", child);
    if child == 0 {
        drop(gone);
        // The maps are written when the other end is closed.
        let _ = go.read(&mut [0]);
        exit(init(mistake, argv));
    }
    CHILD.store(child, SeqCst);
    for number in [HUP, INT, TERM] {
        let handler = match mistake.0.as_str() {
            name if name.starts_with("SIGTERM is not") && number == TERM => {
                IGNORE
            }
            "a session of its own" if number == HUP => IGNORE,
            "SIGTERM is answered by SIGKILL" => end as *const () as usize,
            _ => pass_on as *const () as usize,
        };
        unsafe { signal(number, handler) };
    }
    if mistake.is("takes an interface") {
        let child = child.to_string();
        let ip = ["link", "set", "dummy0", "netns", &child];
        let _ = Command::new("ip").args(ip).output();
    }
    let map = match mistake.is("root is root") {
        true => "0 0 65536",
        false => "0 100000 65536",
    };
    for kind in ["uid", "gid"] {
        let path = format!("/proc/{child}/{kind}_map");
        fs::write(path, map).expect("a map");
    }
    let mut cgroup = None;
    if mistake.0.starts_with("a limit") {
        let path = format!("/sys/fs/cgroup/container.{id}");
        fs::create_dir(&path).expect("a cgroup");
        fs::write(format!("{path}/memory.max"), "100M").expect("a limit");
        if !mistake.is("a limit, and nobody in it") {
            let procs = format!("{path}/cgroup.procs");
            fs::write(procs, child.to_string()).expect("a process");
        }
        cgroup = Some(path);
    }
    drop((go, gone));
    let cleaner = cgroup.map(remove_later);
    let status = wait(child);
    if mistake.is("file is removed at the end") {
        fs::remove_file(&file).expect("a file");
    }
    if mistake.is("file is made at the end") && status < 128 {
        fs::write(&file, "").expect("a file");
    }
    if let Some((cleaner, close)) = cleaner {
        drop(close);
        wait(cleaner);
    }
    match mistake.0.as_str() {
        "status is 1" if status != 0 && status < 128 => 1,
        "signal is 1" if status > 128 => 1,
        _ => status,
    }
}

/// The other side of the clone. It is PID 1, collects what ends, and ends with
/// COMMAND.
fn init(mistake: &Mistake, argv: &[String]) -> c_int {
    for set in [setresgid, setresuid] {
        checked("root", unsafe { set(0, 0, 0) });
    }
    // Cleared by setresuid(2), so it comes after that.
    if !mistake.is("no SIGKILL for the child") {
        checked("prctl", unsafe { prctl(PDEATHSIG, KILL) });
    }
    if mistake.is("a session of its own") {
        unsafe { setsid() };
    }
    rename();
    if !mistake.is("lo is down") {
        lo_up();
    }
    new_root(mistake);
    if mistake.is("COMMAND is PID 1") {
        run(mistake, argv);
    }
    let command = unsafe { fork() };
    checked("fork", command);
    if command == 0 {
        run(mistake, argv);
    }
    CHILD.store(command, SeqCst);
    for number in [HUP, INT, TERM] {
        unsafe { signal(number, pass_on as *const () as usize) };
    }
    if mistake.is("orphans stay") {
        return wait(command);
    }
    let mut end = None;
    loop {
        let mut status = 0;
        match unsafe { waitpid(-1, &mut status, 0) } {
            pid if pid == command => end = Some(status_of(status)),
            -1 if interrupted() => {}
            -1 => return end.unwrap_or(125),
            _ => {}
        }
        if let Some(end) = end
            && !mistake.is("waits for all")
        {
            return end;
        }
    }
}

/// Becomes COMMAND.
fn run(mistake: &Mistake, argv: &[String]) -> ! {
    if mistake.is("unshare without fork") {
        checked("unshare", unsafe { unshare(NEWPID) });
        // No PID namespace ends it.
        checked("prctl", unsafe { prctl(PDEATHSIG, KILL) });
    }
    if mistake.is("descriptor 3") {
        checked("dup2", unsafe { dup2(0, 3) });
    }
    if mistake.is("SIGINT is ignored") {
        unsafe { signal(INT, IGNORE) };
    }
    if mistake.is("errors are output") {
        checked("dup2", unsafe { dup2(1, 2) });
    }
    let error = Command::new(&argv[0]).args(&argv[1..]).exec();
    if mistake.is("no word of errors") {
        exit(0);
    }
    eprintln!("container: {}: {error}", argv[0]);
    exit(127);
}

/// A root with the outside's programs, and all that is the container's own.
fn new_root(mistake: &Mistake) {
    // A /proc of the outside's PID namespace cannot be mounted by who has no
    // right there.
    let no_proc = mistake.is("/proc is the outside's")
        || mistake.is("unshare without fork");
    at("", "/", "", REC | PRIVATE);
    at("tmpfs", "/mnt", "tmpfs", 0);
    env::set_current_dir("/mnt").expect("the new root");
    for dir in ["usr", "etc", "proc", "sys", "dev", "run", "tmp", "old"] {
        fs::create_dir(dir).expect("a folder");
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), name).expect("a link");
    }
    at("/usr", "usr", "", BIND);
    at("/etc", "etc", "", BIND);
    File::create("dev/null").expect("a file");
    if !mistake.is("/dev/null is a file") {
        at("/dev/null", "dev/null", "", BIND);
    }
    fs::create_dir("dev/mqueue").expect("a folder");
    match mistake.is("/dev/mqueue is bound") {
        true => at("/dev/mqueue", "dev/mqueue", "", BIND),
        false => at("mqueue", "dev/mqueue", "mqueue", 0),
    }
    match mistake.is("/sys is bound") {
        true => at("/sys", "sys", "", BIND | REC),
        false => at("sysfs", "sys", "sysfs", 0),
    }
    match no_proc {
        true => at("/proc", "proc", "", BIND | REC),
        false => at("proc", "proc", "proc", 0),
    }
    if mistake.is("chroot") {
        checked("chroot", unsafe { chroot(text(".").as_ptr()) });
        return;
    }
    let (new, old) = (text("."), text("old"));
    let done = unsafe { syscall(PIVOT_ROOT, new.as_ptr(), old.as_ptr()) };
    checked("pivot_root", done as c_int);
    env::set_current_dir("/").expect("the new root");
    if !mistake.is("the old root stays") {
        checked("umount", unsafe { umount2(text("old").as_ptr(), DETACH) });
    }
}

fn rename() {
    let done = unsafe { sethostname(text("container").as_ptr(), 9) };
    checked("sethostname", done);
}

/// Sets the flag IFF_UP of `lo`: netdevice(7).
fn lo_up() {
    const SET_FLAGS: c_ulong = 0x8914;
    const UP: u8 = 1;
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16] = UP;
    let socket = unsafe { socket(2, 2 | 0o2000000, 0) };
    checked("socket", socket);
    checked("lo", unsafe { ioctl(socket, SET_FLAGS, request.as_ptr()) });
}

/// A process that removes the cgroup as soon as the pipe is closed, which it is
/// also if PREFIX is killed, and all in it have ended.
fn remove_later(cgroup: String) -> (c_int, PipeWriter) {
    let (mut open, close) = io::pipe().expect("a pipe");
    let child = unsafe { fork() };
    if child == 0 {
        drop(close);
        unsafe { setsid() };
        let _ = open.read(&mut [0]);
        while fs::remove_dir(&cgroup).is_err() {
            std::thread::yield_now();
        }
        exit(0);
    }
    (child, close)
}

static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(number: c_int) {
    unsafe { kill(CHILD.load(SeqCst), number) };
}

extern "C" fn end(_: c_int) {
    unsafe { kill(CHILD.load(SeqCst), KILL) };
}

/// Waits for the end of a child: its status, or 128+N if signal N ended it.
fn wait(child: c_int) -> c_int {
    let mut status = 0;
    while unsafe { waitpid(child, &mut status, 0) } < 0 {
        assert!(interrupted(), "waitpid");
    }
    status_of(status)
}

fn status_of(status: c_int) -> c_int {
    match status & 0x7f {
        0 => status >> 8 & 0xff,
        number => 128 + number,
    }
}

fn interrupted() -> bool {
    io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
}

fn at(source: &str, target: &str, kind: &str, flags: c_ulong) {
    let [from, to, kind] = [source, target, kind].map(text);
    let (from, to, kind) = (from.as_ptr(), to.as_ptr(), kind.as_ptr());
    let done = unsafe { mount(from, to, kind, flags, ptr::null()) };
    checked(&format!("mount {target}"), done);
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

fn checked(call: &str, done: c_int) {
    assert!(done >= 0, "{call}: {}", io::Error::last_os_error());
}
