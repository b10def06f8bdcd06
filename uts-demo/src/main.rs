//! Run COMMAND in a new UTS namespace: under names of its own.
//!
//!     usage: uts-demo [COMMAND [ARG]...]
//!
//! A UTS namespace holds the two names of a machine: the hostname and the NIS
//! domain name. Man page: uts_namespaces(7). Book: chapter 2, "UTS Namespace".

use std::{fs, process::ExitCode};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::utsname::uname;
use nix::unistd::sethostname;
use user_demo::{Failure, failed, link};
use user_demo::{child::in_child, report::Report};

fn main() -> ExitCode {
    link::run("uts-demo", |command| {
        let Some(command) = command else { return report() };
        enter()?;
        Err(link::exec(command))
    })
}

/// Enters a new UTS namespace, and sets both names in it.
#[expect(unsafe_code, reason = "nix has no setdomainname")]
fn enter() -> Result<(), Failure> {
    // From here on both names belong to this process alone: a new namespace
    // starts as a copy of the old one, and later changes stay in each.
    user_demo::unshare(CloneFlags::CLONE_NEWUTS)?;

    // `hostname -b bird`. Without unshare this would rename the machine for
    // everyone on it. /etc/hostname and an old prompt stay what they were.
    sethostname("bird").map_err(failed("sethostname"))?;

    // `domainname nest`: the name of NIS, which has nothing to do with DNS.
    // SAFETY: the kernel reads these four bytes and keeps no pointer.
    Errno::result(unsafe { libc::setdomainname(c"nest".as_ptr(), 4) })
        .map_err(failed("setdomainname"))?;
    Ok(())
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let outside = look()?;
    let (inside, _child) = in_child(|| {
        enter()?;
        look()
    })?;
    let again = look()?;

    let same = |row: usize| again[row] == outside[row];
    let mut report = Report::new(&outside, &inside, &again)?;
    report.row("UTS namespace", inside[0] != outside[0] && same(0))?;
    report.row("hostname", inside[1] == "bird" && same(1))?;
    report.row("NIS domain name", inside[2] == "nest" && same(2))?;
    report.verdict()
}

/// What this process sees: a value for each row of the report.
fn look() -> Result<[String; 3], Failure> {
    let namespace = fs::read_link("/proc/self/ns/uts")
        .map_err(failed("readlink /proc/self/ns/uts"))?;
    let names = uname().map_err(failed("uname"))?;
    Ok([
        namespace.display().to_string(),
        names.nodename().display().to_string(),
        names.domainname().display().to_string(),
    ])
}
