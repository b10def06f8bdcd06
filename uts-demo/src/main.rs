//! Run COMMAND in a new UTS namespace: under names of its own.
//!
//!     usage: uts-demo [COMMAND [ARG]...]
//!
//! A UTS namespace holds the two names of a machine: the hostname and the NIS
//! domain name. Man page: uts_namespaces(7). Book: chapter 2, "UTS Namespace".

use std::process::ExitCode;

use nix::sched::CloneFlags;
use nix::sys::utsname::{UtsName, uname};
use nix::unistd::sethostname;
use user_demo::link::report::{look, namespace, row, verdict};
use user_demo::link::{self, Call, child::in_child, setdomainname};
use user_demo::{Failure, failed};

fn main() -> ExitCode {
    link::run("uts-demo", |command| {
        let Some(command) = command else { return report() };
        enter()?;
        Err(link::exec(command))
    })
}

/// Enters a new UTS namespace, and sets both names in it.
fn enter() -> Result<(), Failure> {
    // From here on both names belong to this process alone: a new namespace
    // starts as a copy of the old one, and later changes stay in each.
    user_demo::unshare(CloneFlags::CLONE_NEWUTS)?;

    // `hostname -b bird`. Without unshare this would rename the machine for
    // everyone on it. /etc/hostname and an old prompt stay what they were.
    sethostname("bird").map_err(failed(Call::Sethostname))?;

    // `domainname nest`: the name of NIS, which has nothing to do with DNS.
    setdomainname("nest").map_err(failed(Call::Setdomainname))
}

/// The experiment: a child enters, while this process stays outside.
fn report() -> Result<ExitCode, Failure> {
    let host = || Ok(names()?.nodename().display().to_string());
    let domain = || Ok(names()?.domainname().display().to_string());
    let rows = [
        namespace("UTS namespace", "uts"),
        row("hostname", host, |it| it.becomes("bird")),
        row("NIS domain name", domain, |it| it.becomes("nest")),
    ];
    let outside = look(&rows)?;
    let (inside, _child) = in_child(|| {
        enter()?;
        look(&rows)
    })?;
    let again = look(&rows)?;
    verdict(&rows, [&outside, &inside, &again])
}

fn names() -> Result<UtsName, Failure> {
    uname().map_err(failed("uname"))
}
