//! What a process sees of its network: the rows of the report.
//! getifaddrs(3) asks the kernel through netlink, which follows the caller's
//! namespace. /sys/class/net does not: it shows that of who mounted /sys.

use std::fs;
use std::net::{IpAddr, TcpListener, TcpStream};

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use user_demo::{Refused, refused};

/// Looks, and tries to reach `listener` at its address outside.
pub fn look(
    listener: &TcpListener,
    born: &str,
) -> Result<[(&'static str, String); 6], Refused> {
    let namespace = fs::read_link("/proc/self/ns/net")
        .map_err(refused("readlink /proc/self/ns/net"))?;

    let (mut up, mut lo, mut others) = (vec![], vec![], 0);
    for it in getifaddrs().map_err(refused("getifaddrs"))? {
        // Down, there may be more than lo, in a new namespace too: tunl0 and
        // the like, as their modules are loaded (net.core.fb_tunnels_only...).
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
        ("net namespace", namespace.display().to_string()),
        ("interfaces up", short(&up)),
        ("lo at birth", born.to_string()),
        ("lo", short(&lo)),
        ("other addresses", others.to_string()),
        ("listener outside", answer),
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
