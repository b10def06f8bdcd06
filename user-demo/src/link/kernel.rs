//! What the kernel says about this process and its mounts: proc(5).

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Numbers of capabilities, in linux/capability.h.
pub const CAP_NET_ADMIN: u32 = 12;
pub const CAP_SYS_ADMIN: u32 = 21;

/// Whether this process has made a PID namespace, in which no process was
/// started yet.
pub static NEW_PID_NAMESPACE: AtomicBool = AtomicBool::new(false);

/// The words behind `name` in /proc/self/status; none without /proc.
pub fn status(name: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    words(&text, name)
}

/// The words behind `name` in the text of a status file.
pub fn words(status: &str, name: &str) -> Vec<String> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(first, _)| *first == name);
    let rest = found.map_or("", |(_, rest)| rest);
    rest.split_whitespace().map(String::from).collect()
}

/// Does this process lack a capability? Without /proc nobody can tell, and
/// this says no.
pub fn lacks(capability: u32) -> bool {
    let set = status("CapEff").concat();
    u64::from_str_radix(&set, 16).is_ok_and(|set| set >> capability & 1 == 0)
}

/// Which namespace it is. Before Linux 7.1 that of the next child can be read
/// only when it has a PID 1, or had one.
pub fn namespace(name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/self/ns/{name}")).ok()
}

/// Is this the text of the file, but for white space around it?
pub fn says(path: &str, what: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == what)
}

/// A mount that this process sees.
pub struct Mount {
    /// Where it is.
    pub at: String,
    /// Its own options and those of its file system: `rw,nosuid,rw`.
    pub options: String,
}

/// All of them, each behind those that it may cover; none without /proc.
pub fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(parse).collect()
}

/// A line of /proc/self/mountinfo. Before the `-` there are six fields, and
/// then any number; behind it three.
fn parse(line: &str) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(4);
    let (at, own) = (fields.next()?, fields.next()?);
    let (_, of_all) = file_system.rsplit_once(' ')?;
    Some(Mount { at: at.into(), options: format!("{own},{of_all}") })
}

impl Mount {
    /// Does it have this option?
    pub fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|it| it == option)
    }
}

#[test]
fn status_is_found_by_its_whole_name() {
    let status = "Name:\ta: b\nUid:\t1000\t0\t5\t6\nSeccomp:\t2\n\
                  Seccomp_filters:\t7\n";
    assert_eq!(words(status, "Uid"), ["1000", "0", "5", "6"]);
    assert_eq!(words(status, "Seccomp"), ["2"]);
    assert!(words(status, "Sec").is_empty());
}
