//! A reader's own container, as in the book's chapter 3: `container COMMAND`.
//! Built by rustc alone, so the C library's functions are declared here.

use std::os::unix::process::CommandExt;
use std::process::{Command, exit};
use std::{env, ffi::CString, fs, io, ptr};

unsafe extern "C" {
    fn unshare(flags: i32) -> i32;
    fn mount(
        source: *const i8,
        target: *const i8,
        kind: *const i8,
        flags: u64,
        data: *const i8,
    ) -> i32;
    fn umount2(target: *const i8, flags: i32) -> i32;
    fn syscall(number: i64, ...) -> i64;
}

const NEWNS: i32 = 0x20000;
const NEWUTS: i32 = 0x400_0000;
const NEWPID: i32 = 0x2000_0000;
const BIND: u64 = 0x1000;
const REC_PRIVATE: u64 = 0x4000 | 0x4_0000;
const DETACH: i32 = 2;
const PIVOT_ROOT: i64 = if cfg!(target_arch = "aarch64") { 41 } else { 155 };

fn main() {
    let argv: Vec<String> = env::args().skip(1).collect();
    if env::var_os("INSIDE").is_none() {
        checked("unshare", unsafe { unshare(NEWNS | NEWUTS | NEWPID) });
        let mut inside = Command::new(env::current_exe().expect("this"));
        let status = inside.args(argv).env("INSIDE", "1").status();
        exit(status.expect("a child").code().unwrap_or(1));
    }
    fs::create_dir_all("/tmp/root").expect("a folder");
    at("", "/", "", REC_PRIVATE);
    at("/", "/tmp/root", "", BIND);
    env::set_current_dir("/tmp/root").expect("the new root");
    at("proc", "proc", "proc", 0);
    let (new, old) = (text("."), text("mnt"));
    let done = unsafe { syscall(PIVOT_ROOT, new.as_ptr(), old.as_ptr()) };
    checked("pivot_root", done as i32);
    env::set_current_dir("/").expect("the new root");
    checked("umount", unsafe { umount2(text("/mnt").as_ptr().cast(), DETACH) });
    fs::write("/proc/sys/kernel/hostname", "container").expect("a name");
    let mut command = Command::new(&argv[0]);
    panic!("{}", command.args(&argv[1..]).env_remove("INSIDE").exec());
}

fn at(source: &str, target: &str, kind: &str, flags: u64) {
    let [source, target, kind] = [source, target, kind].map(text);
    let done = unsafe {
        let (source, target) = (source.as_ptr().cast(), target.as_ptr().cast());
        mount(source, target, kind.as_ptr().cast(), flags, ptr::null())
    };
    checked("mount", done);
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

fn checked(call: &str, done: i32) {
    assert_eq!(done, 0, "{call}: {}", io::Error::last_os_error());
}
