//! What is tried: the cells of tables, and random walks. Both are lists of
//! operations, which the model and the kernel do one after the other.

use std::collections::BTreeSet;
use std::fmt;

use nix::errno::Errno;

use super::model::{Kernel, Kind, Model};

/// In the namespace of this number, counted from 0, with these paths. `Display`
/// is what `tests/guest/mounts.rs` reads.
#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    /// The file systems 1 to 3 have directories; each other one is new and
    /// empty.
    Mount(u32, u32, String),
    /// With MS_REC or without.
    Bind(u32, String, String, bool),
    Move(u32, String, String),
    /// With MS_REC or without.
    Make(u32, String, Kind, bool),
    /// With MNT_DETACH or without.
    Umount(u32, String, bool),
    /// A copy of the first namespace is the second, in a new user namespace or
    /// not.
    Unshare(u32, u32, bool),
    End(u32),
}

use Kind::{Private, Shared, Slave, Unbindable};
use Operation::{Bind, End, Make, Mount, Move, Umount, Unshare};

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Mount(ns, fs, on) => write!(f, "mount {ns} {fs} {on}"),
            Bind(ns, from, to, rec) => {
                let r = if *rec { "r" } else { "" };
                write!(f, "{r}bind {ns} {from} {to}")
            }
            Move(ns, from, to) => write!(f, "move {ns} {from} {to}"),
            Make(ns, path, kind, rec) => {
                let r = if *rec { "r" } else { "" };
                let kind = format!("{kind:?}").to_lowercase();
                write!(f, "make-{r}{kind} {ns} {path}")
            }
            Umount(ns, path, false) => write!(f, "umount {ns} {path}"),
            Umount(ns, path, true) => write!(f, "detach {ns} {path}"),
            Unshare(from, to, false) => write!(f, "unshare {from} {to} mount"),
            Unshare(from, to, true) => write!(f, "unshare {from} {to} user"),
            End(ns) => write!(f, "end {ns}"),
        }
    }
}

impl Operation {
    /// What it does to the model, and how it ends there.
    pub fn predict(&self, model: &mut Model) -> Result<(), Errno> {
        match self {
            Mount(ns, fs, on) => model.mount(*ns, *fs, on),
            Bind(ns, from, to, rec) => model.bind(*ns, from, to, *rec),
            Move(ns, from, to) => model.move_mount(*ns, from, to),
            Make(ns, path, kind, rec) => model.make(*ns, path, *kind, *rec),
            Umount(ns, path, detach) => model.umount(*ns, path, *detach),
            Unshare(from, to, user) => {
                model.copy_namespace(*from, *to, *user);
                Ok(())
            }
            End(ns) => {
                model.end_namespace(*ns);
                Ok(())
            }
        }
    }

    /// The namespace in which it is done.
    fn namespace(&self) -> u32 {
        match self {
            Mount(ns, ..) | Bind(ns, ..) | Move(ns, ..) | Make(ns, ..) => *ns,
            Umount(ns, ..) | Unshare(ns, ..) | End(ns) => *ns,
        }
    }
}

/// The operations, without those in namespaces that are not there.
fn possible(walk: &[Operation]) -> Vec<Operation> {
    let mut there = BTreeSet::from([0]);
    let mut walk = walk.to_vec();
    walk.retain(|operation| {
        let possible = there.contains(&operation.namespace());
        match operation {
            Unshare(_, to, _) if possible => there.insert(*to),
            End(ns) => there.remove(ns),
            _ => true,
        };
        possible
    });
    walk
}

/// A part of the walk that is still of this kind, and of which no operation can
/// be left out.
pub fn shortest(
    mut walk: Vec<Operation>,
    of_the_kind: impl Fn(&[Operation]) -> bool,
) -> Vec<Operation> {
    loop {
        let before = walk.len();
        for at in (0..before).rev() {
            let mut shorter = walk.clone();
            if at < walk.len() {
                shorter.remove(at);
            }
            let shorter = possible(&shorter);
            if shorter.len() < walk.len() && of_the_kind(&shorter) {
                walk = shorter;
            }
        }
        if walk.len() == before {
            return walk;
        }
    }
}

/// Pseudo-random numbers: xorshift64*.
struct Random(u64);

impl Random {
    /// One from 0 to N - 1.
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// `w`, or up to three directories below it.
    fn path(&mut self) -> String {
        let mut path = "w".to_string();
        for _ in 0..self.one_of(&[0, 1, 1, 1, 2, 2, 3]) {
            path += self.one_of(&["/a", "/b"]);
        }
        path
    }
}

/// A walk of this many operations, the same for the same seed. At most three
/// namespaces are there at a time, and 50 mounts.
pub fn random(seed: u64, length: usize) -> Vec<Operation> {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..8 {
        random.below(2); // The first ones of similar seeds are similar.
    }
    let shared = Make(0, "w".into(), Shared, false);
    let mut walk = vec![Mount(0, 1, "w".into()), shared];
    let mut model = Model::new(Kernel::default());
    for operation in &walk {
        let _ = operation.predict(&mut model);
    }
    let mut next_namespace = 1;
    let mut next_fs = 4;
    while walk.len() < length {
        let there = model.namespaces();
        let ns = random.one_of(&there);
        let (path, other) = (random.path(), random.path());
        let operation = match random.below(14) {
            0 | 1 if random.below(4) == 0 => {
                next_fs += 1;
                Mount(ns, next_fs, path)
            }
            0 | 1 => Mount(ns, 1 + random.below(3) as u32, path),
            2 => Bind(ns, path, other, false),
            3 | 4 => Bind(ns, path, other, true),
            5 | 6 => Move(ns, path, other),
            7..=9 => {
                let kinds =
                    [Shared, Shared, Shared, Private, Slave, Slave, Unbindable];
                Make(ns, path, random.one_of(&kinds), random.below(2) == 0)
            }
            10 => Umount(ns, path, false),
            11 => Umount(ns, path, true),
            12 if there.len() == 3 => End(there[1 + random.below(2)]),
            12 | 13 if there.len() == 3 => continue,
            _ => {
                next_namespace += 1;
                Unshare(ns, next_namespace, random.below(2) == 0)
            }
        };
        let full = model.mounts.len() > 30;
        let grows = matches!(operation, Mount(..) | Bind(..) | Unshare(..));
        if full && grows {
            continue;
        }
        let mut then = model.clone();
        let done = operation.predict(&mut then).is_ok();
        // Most of what fails is left out, since it fails for the same reasons.
        if !done && random.below(8) > 0 {
            continue;
        }
        if then.mounts.len() > 50 {
            continue;
        }
        // Without a mount at `w` nothing happens any more.
        if then.namespaces().iter().all(|ns| then.mount_at(*ns, "w").is_ok()) {
            model = then;
            walk.push(operation);
        }
    }
    walk
}

/// The propagation types, as the first letters of the words "shared", "private",
/// "slave and shared" and so on.
const STATES: [&str; 5] = ["shared", "private", "slave", "both", "unbindable"];

/// The mount at PATH, which is private, gets this propagation type. If it needs
/// a master, that is a bind mount of it at MASTER, or the copy in namespace 9.
fn state(path: &str, state: &str, master: Option<&str>) -> Vec<Operation> {
    let make = |kind| Make(0, path.into(), kind, false);
    let mut walk = match state {
        "private" => vec![],
        "unbindable" => vec![make(Unbindable)],
        _ => vec![make(Shared)],
    };
    if ["slave", "both"].contains(&state) {
        walk.push(match master {
            Some(master) => Bind(0, path.into(), master.into(), false),
            None => Unshare(0, 9, false),
        });
        walk.push(make(Slave));
    }
    if state == "both" {
        walk.push(make(Shared));
    }
    walk
}

/// A mount of each type is bound, bound with all below it, or moved onto a mount
/// of each type: in the same namespace, in a copy, in a copy that belongs to a
/// new user namespace.
pub fn sources_and_destinations() -> Vec<Vec<Operation>> {
    let mut cells = Vec::new();
    for copy in [None, Some(false), Some(true)] {
        let ns = if copy.is_some() { 5 } else { 0 };
        let [from, to] = ["w/a", "w/b/b"].map(String::from);
        for call in [
            Bind(ns, from.clone(), to.clone(), false),
            Bind(ns, from.clone(), to.clone(), true),
            Move(ns, from.clone(), to.clone()),
        ] {
            for source in STATES {
                for destination in STATES {
                    let mut walk = world();
                    walk.push(Mount(0, 3, "w/b".into()));
                    walk.extend(state("w/a", source, Some("w/b/a")));
                    walk.extend(state("w/b", destination, None));
                    walk.extend(copy.map(|user| Unshare(0, 5, user)));
                    walk.push(call.clone());
                    cells.push(walk);
                }
            }
        }
    }
    cells
}

/// A mount of each type, with and without a peer, becomes shared, private, slave
/// or unbindable, while it has a slave if it is shared.
pub fn changes_of_type() -> Vec<Vec<Operation>> {
    let mut cells = Vec::new();
    let states = STATES.map(|it| (it, false));
    for (of, peer) in
        [&states[..], &[("shared", true), ("both", true)]].concat()
    {
        for kind in [Shared, Private, Slave, Unbindable] {
            let mut walk = world();
            walk.extend(state("w/a", of, None));
            if peer {
                walk.push(Unshare(0, 8, false));
            }
            if ["shared", "both"].contains(&of) {
                walk.push(Unshare(0, 6, false));
                walk.push(Make(6, "w/a".into(), Slave, false));
            }
            walk.push(Make(0, "w/a".into(), kind, false));
            cells.push(walk);
        }
    }
    cells
}

/// A mount at `w` and one on it, both private.
fn world() -> Vec<Operation> {
    vec![Mount(0, 1, "w".into()), Mount(0, 2, "w/a".into())]
}

/// What the tables and most walks do not come to.
pub fn lessons() -> Vec<Vec<Operation>> {
    let [w, a, b] = ["w", "w/a", "w/b"].map(String::from);
    let lessons = [
        // An unbindable mount is left out.
        vec![
            Make(0, a.clone(), Unbindable, false),
            Bind(0, w.clone(), b, true),
        ],
        // A slave is moved onto its own master.
        vec![
            Make(0, a.clone(), Shared, false),
            Bind(0, a.clone(), "w/b".into(), false),
            Make(0, "w/b".into(), Slave, false),
            Move(0, "w/b".into(), "w/a/a".into()),
        ],
        // What a locked mount covers is not uncovered.
        vec![Unshare(0, 5, true), Bind(5, w.clone(), "w/b".into(), false)],
        // A locked mount that covers one which goes, and goes as well itself.
        vec![
            Make(0, w.clone(), Shared, true),
            Mount(0, 3, "w/a/a".into()),
            Mount(0, 1, "w/a/a".into()),
            Unshare(0, 5, true),
            Umount(0, a.clone(), true),
        ],
        // What is received is locked below its topmost mount.
        vec![
            Make(0, w, Shared, true),
            Unshare(0, 5, true),
            Mount(0, 3, "w/a/a".into()),
            Bind(0, a, "w/b".into(), true),
            Umount(5, "w/b/a".into(), false),
            Umount(5, "w/b".into(), true),
        ],
    ];
    lessons.map(|it| [world(), it].concat()).into()
}

/// After its last operation the mount in namespace 1 is unbindable, or not.
pub fn copy_of_unbindable() -> Vec<Operation> {
    vec![
        Mount(0, 1, "w".into()),
        Make(0, "w".into(), Unbindable, false),
        Unshare(0, 1, false),
    ]
}

/// In namespace 1 a private mount covers one that goes with the last operation.
/// Then it is still at `w/a/a`, or at `w/a`.
pub fn cover_of_what_goes() -> Vec<Operation> {
    vec![
        Mount(0, 1, "w".into()),
        Make(0, "w".into(), Shared, false),
        Unshare(0, 1, false),
        Mount(0, 2, "w/a".into()),
        Mount(0, 3, "w/a/a".into()),
        Make(1, "w/a/a".into(), Private, false),
        Mount(1, 4, "w/a/a".into()),
        Umount(0, "w/a".into(), true),
    ]
}

/// The last operation succeeds, or what is mounted in namespace 1 is locked.
pub fn cover_of_what_is_received() -> Vec<Operation> {
    vec![
        Mount(0, 1, "w".into()),
        Make(0, "w".into(), Shared, false),
        Unshare(0, 1, true),
        Mount(1, 4, "w/a".into()),
        Mount(0, 2, "w/a".into()),
        Umount(1, "w/a".into(), false),
    ]
}

/// With the last operation but one a mount is received below a locked one, in
/// namespace 1. After the last one it is still there, or not.
pub fn tucked_below_a_locked_one() -> Vec<Operation> {
    let [w, a, b] = ["w", "w/a", "w/b"].map(String::from);
    vec![
        Mount(0, 1, w.clone()),
        Make(0, w.clone(), Shared, false),
        Bind(0, a.clone(), a, false),
        Unshare(0, 1, true),
        Bind(0, w, b.clone(), false),
        Bind(0, b.clone(), "w/b/a".into(), false),
        Umount(0, b, true),
    ]
}
