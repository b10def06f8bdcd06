//! What a process sees of its network: values of the report's rows.
//! getifaddrs(3) asks the kernel through netlink, which answers about the
//! caller's namespace. /sys/class/net shows that of the process which mounted
//! /sys.

use std::net::IpAddr;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use user_demo::{Failure, failed};

/// The interfaces that are up. Where their modules are loaded, a new namespace
/// has tunl0 and the like beside lo. They are down (net.core.fb_tunnels_only...).
pub fn up() -> Result<String, Failure> {
    let interfaces = all()?.into_iter().filter(|it| ip(it).is_none());
    let up = interfaces.filter(|it| it.flags.contains(InterfaceFlags::IFF_UP));
    Ok(short(&up.map(|it| it.interface_name).collect::<Vec<_>>()))
}

/// The addresses of lo.
pub fn lo() -> Result<String, Failure> {
    let lo = all()?.into_iter().filter(is_loopback);
    let lo = lo.filter_map(|it| Some(ip(&it)?.to_string()));
    Ok(short(&lo.collect::<Vec<_>>()))
}

/// How many addresses the other interfaces have.
pub fn others() -> Result<String, Failure> {
    let others = all()?.into_iter().filter(|it| !is_loopback(it));
    Ok(others.filter(|it| ip(it).is_some()).count().to_string())
}

/// An interface is listed once for itself, and once for each IP address.
fn all() -> Result<Vec<InterfaceAddress>, Failure> {
    getifaddrs().map(Iterator::collect).map_err(failed("getifaddrs"))
}

fn is_loopback(entry: &InterfaceAddress) -> bool {
    entry.flags.contains(InterfaceFlags::IFF_LOOPBACK)
}

fn ip(entry: &InterfaceAddress) -> Option<IpAddr> {
    let address = entry.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|it| it.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
}

/// A list that fits into its column.
fn short(list: &[String]) -> String {
    let all = list.join(" ");
    if all.len() <= 18 {
        return all;
    }
    format!("{} and {} more", list[0], list.len() - 1)
}

#[test]
fn long_list_is_counted() {
    let short = |list: &[&str]| {
        short(&list.iter().map(|it| it.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(short(&[]), "");
    assert_eq!(short(&["lo", "eighteen_in_all"]), "lo eighteen_in_all");
    assert_eq!(short(&["lo", "nineteen_in_all_"]), "lo and 1 more");
    assert_eq!(short(&["lo", "wlp0s20f3", "enp0s31f6"]), "lo and 2 more");
}
