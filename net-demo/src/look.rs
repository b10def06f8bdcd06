//! What a process sees of its network: a value for each row of the report.
//! getifaddrs(3) asks the kernel through netlink, which answers about the
//! caller's namespace. /sys/class/net shows that of the process which mounted
//! /sys.

use std::fs;
use std::net::{IpAddr, TcpListener, TcpStream};

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use user_demo::{Failure, failed};

/// Looks, and tries to reach `listener` at its address outside.
pub fn look(
    listener: &TcpListener,
    born: &str,
) -> Result<[String; 6], Failure> {
    let namespace = fs::read_link("/proc/self/ns/net")
        .map_err(failed("readlink /proc/self/ns/net"))?;

    let (mut up, mut lo, mut others) = (vec![], vec![], 0);
    for it in getifaddrs().map_err(failed("getifaddrs"))? {
        // Where their modules are loaded, a new namespace has tunl0 and the
        // like beside lo. They are down (net.core.fb_tunnels_only...).
        if it.flags.contains(InterfaceFlags::IFF_UP)
            && !up.contains(&it.interface_name)
        {
            up.push(it.interface_name.clone());
        }
        match ip(&it) {
            Some(ip) if it.flags.contains(InterfaceFlags::IFF_LOOPBACK) => {
                lo.push(ip.to_string());
            }
            Some(_) => others += 1,
            None => {}
        }
    }

    let answer = match listener.local_addr().and_then(TcpStream::connect) {
        Ok(_) => "answers".to_string(),
        Err(error) => {
            format!("{:?}", Errno::try_from(error).unwrap_or(Errno::EIO))
        }
    };
    Ok([
        namespace.display().to_string(),
        short(&up),
        born.to_string(),
        short(&lo),
        others.to_string(),
        answer,
    ])
}

/// An interface is listed once for itself, and once for each IP address.
fn ip(entry: &InterfaceAddress) -> Option<IpAddr> {
    let address = entry.address?;
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
