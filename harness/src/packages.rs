//! What the distribution has and this machine lacks: a kernel, QEMU, tools.
//! Their packages are fetched by apt and unpacked without root, and are not
//! installed. Other package managers cannot do that.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::unistd::{AccessFlags, access};

use crate::apt::{Archive, Lists, command, output, reason};
use crate::env::variable;
use crate::progress::progress;
use crate::room::PACKAGES;
use crate::stamp::Stamp;

/// Packages to unpack into a folder of their own.
pub struct Wanted<'a> {
    /// The folder's name.
    pub name: &'static str,
    /// Which packages these are, as far as apt knows by its lists.
    pub plan: &'a dyn Fn(&Lists) -> Result<Vec<String>, String>,
    /// Whether the folder holds what they are for.
    pub has: &'a dyn Fn(&Path) -> bool,
    /// What is still to be done in the new folder.
    pub finish: &'a dyn Fn(&Path) -> io::Result<()>,
}

/// The folder for packages: `$HARNESS_PACKAGES`, or else below `cache`.
pub fn store(cache: &Path) -> PathBuf {
    match variable("HARNESS_PACKAGES") {
        Some(store) => std::path::absolute(&store).unwrap_or(store.into()),
        None => cache.join("packages"),
    }
}

/// The folder below `store` into which these packages are unpacked: fetched, if
/// they are not there or apt knows newer ones. As long as neither apt's lists
/// nor what is installed changes, apt is not asked.
///
/// # Errors
/// What failed, in words: all that apt or dpkg has said.
pub fn unpacked(store: &Path, wanted: &Wanted) -> Result<PathBuf, String> {
    let dir = store.join(wanted.name);
    let asked = store.join(wanted.name).with_extension("asked");
    let now = state();
    // Another user's are taken as they are.
    let is_current = || {
        (wanted.has)(&dir)
            && (fs::read_to_string(&asked).is_ok_and(|then| then == now)
                || access(store, AccessFlags::W_OK).is_err())
    };
    if is_current() {
        return Ok(dir);
    }
    fs::create_dir_all(store).map_err(|error| PACKAGES.error(store, &error))?;
    let _lock = PACKAGES.lock(store).map_err(|it| it.to_string())?;
    // Another process may have fetched them while we waited.
    if is_current() {
        return Ok(dir);
    }
    let there = (wanted.has)(&dir);
    match renew(store, &dir, wanted, there) {
        Err(why) if !there => {
            return Err(PACKAGES.refusal(store).unwrap_or(why));
        }
        // Old ones are better than none, without a network for example.
        Err(why) => progress(format_args!("nothing newer was fetched: {why}")),
        Ok(()) => {}
    }
    fs::write(&asked, now).map_err(|error| reason(&asked, error))?;
    Ok(dir)
}

/// What apt's answers depend on: what is installed, and the lists of packages.
fn state() -> String {
    let paths = ["/var/lib/dpkg/status", "/var/lib/apt/lists"];
    format!("{:?}", paths.map(|path| Stamp::of(Path::new(path)).ok()))
}

/// Fetches and unpacks the packages, unless these very ones are in `dir`. With
/// `there`, what is in `dir` would do.
fn renew(
    store: &Path,
    dir: &Path,
    wanted: &Wanted,
    there: bool,
) -> Result<(), String> {
    let debs = dir.with_extension("debs");
    // There may be no lists, as in an image for a container. Old lists may name
    // files that the mirror no longer has. So there are lists of our own, which
    // are fetched when the ones before them do not do.
    let own = || Some(store.join("apt"));
    let lists = [
        Lists { own: None, update: false },
        Lists { own: own(), update: false },
        Lists { own: own(), update: true },
    ];
    let mut why = Vec::new();
    for lists in &lists {
        if lists.update {
            if there {
                break;
            }
            progress(format_args!("fetching the lists of packages"));
            why.extend(lists.update().err());
        } else if lists.own.as_ref().is_some_and(|own| !own.exists()) {
            continue;
        }
        let found = (wanted.plan)(lists).and_then(|it| lists.archives(&it));
        let fetched = match found {
            Ok(archives) if there && has_all(dir, &archives) => return Ok(()),
            Ok(archives) => lists.download(&archives, &debs).map(|()| archives),
            Err(reason) => Err(reason),
        };
        match fetched {
            Ok(archives) => return unpack(&archives, &debs, dir, wanted),
            Err(reason) if why.contains(&reason) => {}
            Err(reason) => why.push(reason),
        }
    }
    Err(why.join("\n"))
}

/// The list of what is unpacked in a folder.
const LIST: &str = "packages";

fn list(archives: &[Archive]) -> String {
    archives.iter().map(|(name, _)| format!("{name}\n")).collect()
}

/// Whether all of these are unpacked in this folder.
fn has_all(dir: &Path, archives: &[Archive]) -> bool {
    let there = fs::read_to_string(dir.join(LIST)).unwrap_or_default();
    let mut names = archives.iter().map(|(name, _)| name);
    names.all(|name| there.lines().any(|line| line == name))
}

/// Unpacks the files in the folder `debs` into `dir`, which is replaced when
/// the new one is complete. The files stay until then: nothing is fetched twice.
fn unpack(
    archives: &[Archive],
    debs: &Path,
    dir: &Path,
    wanted: &Wanted,
) -> Result<(), String> {
    let new = dir.with_extension("new");
    let _ = fs::remove_dir_all(&new);
    let fill = || {
        fs::create_dir_all(&new).map_err(|error| reason(&new, error))?;
        for (name, _) in archives {
            let deb = debs.join(name);
            output(command("dpkg").arg("-x").arg(&deb).arg(&new))?;
        }
        relative_links(&new, &new)
            .and_then(|()| (wanted.finish)(&new))
            .and_then(|()| fs::write(new.join(LIST), list(archives)))
            .map_err(|error| reason(&new, error))?;
        match (wanted.has)(&new) {
            true => Ok(()),
            false => Err("what is missing is not in these packages".into()),
        }
    };
    let swap = || {
        let old = dir.with_extension("old");
        let _ = fs::remove_dir_all(&old);
        let _ = fs::rename(dir, &old);
        fs::rename(&new, dir).map_err(|error| reason(dir, error))?;
        let _ = fs::remove_dir_all(&old);
        let _ = fs::remove_dir_all(debs);
        progress(format_args!("unpacked in {}", dir.display()));
        Ok(())
    };
    let done = fill().and_then(|()| swap());
    let _ = fs::remove_dir_all(&new);
    done
}

/// A link's target that begins with `/` is meant in these packages, if it is
/// there: `/sbin/modprobe` is a link to `/bin/kmod`.
fn relative_links(root: &Path, dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_symlink() {
            let target = fs::read_link(&path)?;
            let Ok(inside) = target.strip_prefix("/") else { continue };
            if root.join(inside).symlink_metadata().is_ok() {
                let depth =
                    dir.strip_prefix(root).map_or(0, |it| it.iter().count());
                let up: PathBuf = (0..depth).map(|_| "..").collect();
                fs::remove_file(&path)?;
                symlink(up.join(inside), &path)?;
            }
        } else if path.is_dir() {
            relative_links(root, &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with two links: to a file of the same packages, and to one that
    /// is not there.
    #[test]
    fn link_to_a_file_of_the_packages_stays_among_them() {
        let root = tempfile::tempdir().expect("a folder");
        let root = root.path();
        for dir in ["bin", "usr/sbin"] {
            fs::create_dir_all(root.join(dir)).expect("a folder");
        }
        fs::write(root.join("bin/kmod"), "").expect("a file");
        let [modprobe, awk] =
            ["modprobe", "awk"].map(|it| root.join("usr/sbin").join(it));
        symlink("/bin/kmod", &modprobe).expect("a link");
        symlink("/etc/alternatives/awk", &awk).expect("a link");
        relative_links(root, root).expect("changed");
        let [modprobe, awk] = [modprobe, awk].map(|it| it.read_link());
        let there = |path: &str| Some(PathBuf::from(path));
        assert_eq!(modprobe.ok(), there("../../bin/kmod"));
        assert_eq!(awk.ok(), there("/etc/alternatives/awk"));
    }
}
