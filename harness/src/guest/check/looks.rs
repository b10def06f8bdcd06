//! The rows about a container that runs. Each looks at it, and says what it
//! has seen.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::prctl;
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use nix::unistd::{chdir, chroot};

use super::container::SOON;
use super::inside::{AS_COMMAND, Inside, ORPHAN, mask};
use super::outside::{FILE, QUEUE, interfaces};
use super::proc::mounts;
use super::tap::Verdict;

type Row = io::Result<Verdict>;

/// Why a row is skipped that asks about a namespace which is not there.
pub const SHARED: &str = "shares the outside's";

fn not_ok(reason: impl Into<String>) -> Row {
    Ok(Verdict::NotOk(reason.into()))
}

pub fn hostname(inside: &Inside) -> Row {
    match inside.outside.hostname_was() {
        Some(old) => not_ok(format!("the outside's was {old}, and is changed")),
        None if !inside.has("uts") => Verdict::skip(SHARED),
        None => Ok(Verdict::Ok),
    }
}

pub fn queues(inside: &Inside) -> Row {
    let queue = format!("/dev/mqueue{QUEUE}");
    let shown = inside.ask(&["mnt", "root"], || Path::new(&queue).exists())?;
    Ok(Verdict::unless(shown.then_some("/dev/mqueue shows the outside's")))
}

pub fn pid_1(inside: &Inside) -> Row {
    let proc = &inside.outside.proc;
    let its = inside.pid.to_string();
    let childrens = proc.namespace(&its, "pid_for_children");
    if !inside.has("pid") {
        // Before the first child is made there is no link at all.
        return match childrens == proc.namespace("self", "pid") {
            true => Verdict::skip(SHARED),
            false => not_ok("only its children would be in: no fork(2)"),
        };
    }
    let pid = inside.own_pid();
    match init(inside) {
        Some(_) => Ok(Verdict::Ok),
        None => not_ok(format!("COMMAND is {pid}, and 1 has ended")),
    }
}

/// PID 1 of COMMAND's PID namespace.
fn init(inside: &Inside) -> Option<i32> {
    let proc = &inside.outside.proc;
    let namespace = |pid: i32| proc.namespace(&pid.to_string(), "pid");
    inside.outside.strays().into_iter().find(|pid| {
        let all = proc.status(*pid, "NSpid").unwrap_or_default();
        all.split_whitespace().last() == Some("1")
            && namespace(*pid) == namespace(inside.pid)
    })
}

pub fn proc_inside(inside: &Inside) -> Row {
    if !inside.has("pid") || !inside.has("mnt") {
        let missing = if inside.has("pid") { "mounts" } else { "PIDs" };
        return Verdict::skip(&format!("shares the outside's {missing}"));
    }
    // A process of another namespace has no /proc/self there, or finds another
    // process in its place.
    let (itself, seen) = inside.ask(&["pid", "mnt", "root"], || {
        let itself = fs::read_link("/proc/self").ok();
        let itself = itself.and_then(|it| it.to_str()?.parse().ok());
        let is_mounted = Path::new("/proc/version").exists();
        (itself == Some(std::process::id()), is_mounted)
    })?;
    Ok(Verdict::unless(match (itself, seen) {
        (true, _) => None,
        (false, true) => Some("it shows another PID namespace's processes"),
        (false, false) => Some("nothing is mounted there"),
    }))
}

pub fn proc_outside(inside: &Inside) -> Row {
    Ok(Verdict::unless(inside.outside.broken_proc()))
}

pub fn mounts_inside(inside: &Inside) -> Row {
    let proc = &inside.outside.proc;
    let outsides = proc.read("self/mountinfo")?;
    let outsides = mounts(&outsides);
    // All mounts of the namespace, also those that COMMAND's root hides.
    let all = inside
        .ask(&["mnt"], || proc.read("self/mountinfo").unwrap_or_default())?;
    let of = |group: fn(&super::proc::Mount) -> Option<String>| {
        let all = mounts(&all).into_iter();
        let its = all.filter(|it| {
            let group = group(it);
            group.is_some()
                && outsides.iter().any(|out| out.shared == group.as_deref())
        });
        list(its.map(|it| it.at.to_string()).collect())
    };
    let peers = of(|it| it.shared.map(String::from));
    let slaves = of(|it| it.master.map(String::from));
    Ok(match (peers, slaves) {
        (Some(peers), _) => {
            Verdict::NotOk(format!("shared with the outside: {peers}"))
        }
        (_, Some(slaves)) => Verdict::Note(format!(
            "but what is mounted outside appears inside (slaves): {slaves}"
        )),
        (None, None) => Verdict::Ok,
    })
}

fn list(all: Vec<String>) -> Option<String> {
    let more = if all.len() > 4 { " ..." } else { "" };
    let first = all.iter().take(4).cloned().collect::<Vec<_>>();
    (!all.is_empty()).then(|| first.join(" ") + more)
}

pub fn root(inside: &Inside) -> Row {
    if inside.has_outsides_root() {
        return Verdict::skip("it is the outside's");
    }
    if !inside.is_chrooted()? {
        return Ok(Verdict::Ok);
    }
    // Out of a chroot leads another one: the caller keeps its directory, which
    // is above the new root then, and `..` ends only at a root.
    let out = inside.ask(AS_COMMAND, || {
        let top = |path: &str| {
            let it = fs::metadata(path).ok();
            it.map(|it| (it.dev(), it.ino()))
        };
        let root = top("/");
        let dirs = fs::read_dir("/").into_iter().flatten().flatten();
        let mut dirs =
            dirs.filter(|it| it.file_type().is_ok_and(|it| it.is_dir()));
        let moved =
            chdir("/").is_ok() && dirs.any(|it| chroot(&it.path()).is_ok());
        for _ in 0..64 {
            let _ = chdir("..");
        }
        moved && top(".") != root
    })?;
    Ok(match out {
        true => Verdict::NotOk("chroot(2) alone: `..` leads out of it".into()),
        false => Verdict::Note("chroot(2), but COMMAND may not call it".into()),
    })
}

pub fn old_root(inside: &Inside) -> Row {
    if inside.has_outsides_root() {
        return Verdict::skip("it is the outside's");
    }
    let places = list(inside.places_of_outsides_root()?);
    Ok(Verdict::unless(places.map(|places| format!("it is at {places}"))))
}

pub fn uids(inside: &Inside) -> Row {
    let reason = "COMMAND's uid is not mapped";
    Ok(Verdict::unless(inside.mapped_uid().is_none().then_some(reason)))
}

pub fn roots_files(inside: &Inside) -> Row {
    let mut places = inside.places_of_outsides_root()?;
    places.push("/".into());
    let written = inside.ask(AS_COMMAND, || {
        places.into_iter().find(|place| {
            let file = Path::new(place).join(FILE);
            fs::OpenOptions::new().write(true).open(file).is_ok()
        })
    })?;
    match written {
        None => Ok(Verdict::Ok),
        Some(_) if !inside.has("user") && inside.has_outsides_root() => {
            Verdict::skip("the outside's uids")
        }
        Some(_) if !inside.has("user") => {
            not_ok("its root is the outside's root, and can reach them")
        }
        Some(_) => not_ok("uid 0 inside is uid 0 outside"),
    }
}

/// Files that concern the whole machine. A file of another kind that is bound
/// over one of them does no harm.
const SWITCHES: [&str; 3] = [
    "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
];

pub fn switches(inside: &Inside) -> Row {
    let can = inside.ask(AS_COMMAND, || {
        let can = |path: &&str| {
            let file = fs::OpenOptions::new().write(true).open(path);
            let kind = file.ok().and_then(|it| fstatfs(it).ok());
            let kind = kind.map(|it| it.filesystem_type());
            kind == Some(PROC_SUPER_MAGIC) || kind == Some(SYSFS_MAGIC)
        };
        let can = SWITCHES.iter().filter(|it| can(it));
        can.map(|it| it.to_string()).collect::<Vec<_>>()
    })?;
    match list(can) {
        None => Ok(Verdict::Ok),
        Some(_) if !inside.has("user") => Verdict::skip("the outside's uids"),
        Some(can) => not_ok(format!("it can write {can}")),
    }
}

pub fn network(inside: &Inside) -> Row {
    if let Some(gone) = inside.outside.interface_gone() {
        return not_ok(format!("the outside has lost {gone}"));
    }
    if !inside.has("net") {
        return Verdict::skip(SHARED);
    }
    Ok(Verdict::Ok)
}

pub fn lo(inside: &Inside) -> Row {
    let up = inside.ask(&["net"], || {
        getifaddrs().into_iter().flatten().any(|it| {
            it.interface_name == "lo"
                && it.flags.contains(InterfaceFlags::IFF_UP)
        })
    })?;
    let reason = "it is down: 127.0.0.1 cannot be reached";
    Ok(Verdict::unless((!up).then_some(reason)))
}

pub fn sys(inside: &Inside) -> Row {
    let own = inside.ask(&["net"], interfaces)?;
    let shown = inside.ask(&["mnt", "root"], || {
        let entries = fs::read_dir("/sys/class/net").into_iter().flatten();
        let names = entries.flatten().map(|it| it.file_name());
        names.map(|it| it.to_string_lossy().into_owned()).collect::<Vec<_>>()
    })?;
    if shown.is_empty() {
        return Verdict::skip("there is no /sys inside");
    }
    let foreign = shown.into_iter().find(|it| !own.contains(it));
    let reason =
        foreign.map(|it| format!("/sys/class/net has the outside's {it}"));
    Ok(Verdict::unless(reason))
}

pub fn memory_limit(inside: &Inside) -> Row {
    let limits = inside.outside.memory_limits();
    if limits.is_empty() {
        return Verdict::skip("no limit is set");
    }
    let its = inside.outside.cgroups(inside.pid);
    let holds = |cgroup: &Path| its.iter().any(|it| it.starts_with(cgroup));
    if limits.iter().any(|cgroup| holds(cgroup)) {
        return Ok(Verdict::Ok);
    }
    let limits = limits.iter().map(|it| it.display().to_string()).collect();
    let limits = list(limits).unwrap_or_default();
    not_ok(format!("it is set for {limits}, and COMMAND is not in there"))
}

pub fn dev_null(inside: &Inside) -> Row {
    let (is_null, opened) = inside.ask(AS_COMMAND, || {
        let null = fs::metadata("/dev/null");
        let is_null = null.is_ok_and(|it| {
            it.file_type().is_char_device() && it.rdev() == 0x103
        });
        let file = fs::OpenOptions::new().write(true).open("/dev/null");
        (is_null, file.map(drop).map_err(|error| error.to_string()))
    })?;
    Ok(Verdict::unless(match (is_null, opened) {
        (true, Ok(())) => None,
        (_, Err(why)) => Some(why),
        (false, Ok(())) => Some("it is an ordinary file".into()),
    }))
}

pub fn descriptors(inside: &Inside) -> Row {
    let (proc, pid) = (&inside.outside.proc, inside.pid);
    let mut open = proc.numbers(&format!("{pid}/fd"));
    open.retain(|fd| *fd > 2);
    let name = |fd| format!("{fd} is {}", proc.link(&format!("{pid}/fd/{fd}")));
    Ok(Verdict::unless(list(open.into_iter().map(name).collect())))
}

pub fn signals(inside: &Inside) -> Row {
    let of = |field: &str, what: &str| {
        let set = mask(&inside.field(field));
        let numbers = (1..=64).filter(|it| set >> (it - 1) & 1 == 1);
        // The C library's own: posix_spawn(3) of glibc leaves them ignored.
        let numbers = numbers.filter(|it| !(32..=34).contains(it));
        let numbers = list(numbers.map(|it| it.to_string()).collect());
        numbers.map(|it| format!("{what}: {it}"))
    };
    let wrong = [of("SigIgn", "ignored"), of("SigBlk", "blocked")];
    let wrong = wrong.into_iter().flatten().collect::<Vec<_>>();
    Ok(Verdict::unless((!wrong.is_empty()).then(|| wrong.join(", "))))
}

/// An orphan that ends in COMMAND's PID namespace. Its new parent is PID 1.
pub fn orphans(inside: &Inside) -> Row {
    if inside.own_pid() == 1 {
        return Verdict::skip("COMMAND itself is PID 1: its duty");
    }
    let outside = inside.outside;
    inside.orphan(|| {
        let _ = prctl::set_name(ORPHAN);
    })?;
    let left = || outside.named(ORPHAN);
    if outside.wait(SOON, || left().is_none()) {
        return Ok(Verdict::Ok);
    }
    let parent = left().and_then(|it| outside.proc.status(it, "PPid"));
    let parent = parent.and_then(|it| it.parse().ok()).unwrap_or_default();
    let parent = outside.proc.name(parent);
    not_ok(format!("a zombie stays below {parent}"))
}
