//! What is tried: the cells of tables, and random walks. Each is a text with an
//! operation on each line, as `tests/guest/mounts.rs` reads it. The model and
//! the kernel do one after the other.

use std::collections::BTreeSet;

use super::model::{Done, Kernel, Model};

/// What an operation does to the model, and how it ends there. Its second word
/// is the namespace in which it is done, by its number, counted from 0.
pub fn predict(operation: &str, model: &mut Model) -> Done {
    let words: Vec<&str> = operation.split(' ').collect();
    let number = |at: usize| words[at].parse().expect("a number");
    let ns = number(1);
    match words[..] {
        // The file systems 1 to 3 have directories; each other one is new and
        // empty.
        ["mount", _, _, on] => model.mount(ns, number(2), on),
        ["bind", _, from, to] => model.bind(ns, from, to, false),
        ["rbind", _, from, to] => model.bind(ns, from, to, true),
        ["move", _, from, to] => model.move_mount(ns, from, to),
        ["umount", _, path] => model.umount(ns, path, false),
        ["detach", _, path] => model.umount(ns, path, true),
        ["unshare", _, _, owner] => {
            model.copy_namespace(ns, number(2), owner == "user")
        }
        ["end", _] => model.end_namespace(ns),
        [make, _, path] => match make.strip_prefix("make-r") {
            Some(kind) => model.make(ns, path, kind, true),
            None => model.make(ns, path, &make["make-".len()..], false),
        },
        _ => panic!("{operation}"),
    }
}

/// The walk without this operation, and without those in namespaces that are
/// not there then.
fn without(walk: &str, left_out: usize) -> String {
    let mut there = BTreeSet::from(["0"]);
    let mut shorter = String::new();
    for (at, operation) in walk.lines().enumerate() {
        let words: Vec<&str> = operation.split(' ').collect();
        if at != left_out && there.contains(words[1]) {
            shorter += &format!("{operation}\n");
            there.extend(words.get(2).filter(|_| words[0] == "unshare"));
        }
    }
    shorter
}

/// A part of the walk that is still of this kind, and of which no operation can
/// be left out.
pub fn shortest(
    mut walk: String,
    of_the_kind: impl Fn(&str) -> bool,
) -> String {
    let shorter = |walk: &str| {
        let all = (0..walk.lines().count()).rev();
        all.map(|at| without(walk, at)).find(|it| of_the_kind(it))
    };
    while let Some(shorter) = shorter(&walk) {
        walk = shorter;
    }
    walk
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
pub fn random(seed: u64, length: usize) -> String {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    for _ in 0..8 {
        random.below(2); // The first ones of similar seeds are similar.
    }
    let mut walk = "mount 0 1 w\nmake-shared 0 w\n".to_string();
    let mut model = Model::new(Kernel::default());
    for operation in walk.lines() {
        let _ = predict(operation, &mut model);
    }
    let (mut next_namespace, mut next_fs) = (1, 4);
    while walk.lines().count() < length {
        let there = model.namespaces();
        let ns = random.one_of(&there);
        let (path, other) = (random.path(), random.path());
        let operation = match random.below(14) {
            0 | 1 if random.below(4) == 0 => {
                next_fs += 1;
                format!("mount {ns} {next_fs} {path}")
            }
            0 | 1 => format!("mount {ns} {} {path}", 1 + random.below(3)),
            2 => format!("bind {ns} {path} {other}"),
            3 | 4 => format!("rbind {ns} {path} {other}"),
            5 | 6 => format!("move {ns} {path} {other}"),
            7..=9 => {
                let kind = random.one_of(&[
                    "shared",
                    "shared",
                    "shared",
                    "private",
                    "slave",
                    "slave",
                    "unbindable",
                ]);
                let rec = random.one_of(&["r", ""]);
                format!("make-{rec}{kind} {ns} {path}")
            }
            10 => format!("umount {ns} {path}"),
            11 => format!("detach {ns} {path}"),
            12 if there.len() == 3 => {
                format!("end {}", there[1 + random.below(2)])
            }
            12 | 13 if there.len() == 3 => continue,
            _ => {
                next_namespace += 1;
                let owner = random.one_of(&["user", "mount"]);
                format!("unshare {ns} {next_namespace} {owner}")
            }
        };
        let mut grows = ["mount", "bind", "rbind", "unshare"].iter();
        let grows = grows.any(|it| operation.starts_with(it));
        if model.mounts.len() > 30 && grows {
            continue;
        }
        let mut then = model.clone();
        let done = predict(&operation, &mut then).is_ok();
        // Most of what fails is left out, since it fails for the same reasons.
        if !done && random.below(8) > 0 {
            continue;
        }
        // Without a mount at `w` nothing happens any more.
        let goes_on =
            then.namespaces().iter().all(|ns| then.mount_at(*ns, "w").is_ok());
        if then.mounts.len() <= 50 && goes_on {
            model = then;
            walk += &format!("{operation}\n");
        }
    }
    walk
}

/// A mount at `w` and one on it, both private.
const WORLD: &str = "mount 0 1 w\nmount 0 2 w/a\n";

/// The propagation types; `both` is slave and shared.
const STATES: [&str; 5] = ["shared", "private", "slave", "both", "unbindable"];

/// The mount at PATH, which is private, gets this propagation type. COPY makes
/// the master that it may need.
fn state(path: &str, state: &str, copy: &str) -> String {
    let shared = format!("make-shared 0 {path}\n");
    let slave = format!("{shared}{copy}\nmake-slave 0 {path}\n");
    match state {
        "private" => String::new(),
        "shared" => shared,
        "slave" => slave,
        "both" => slave + &shared,
        _ => format!("make-{state} 0 {path}\n"),
    }
}

/// A mount of each type is bound, bound with all below it, or moved onto a mount
/// of each type: in the same namespace, in a copy, in a copy that belongs to a
/// new user namespace.
pub fn sources_and_destinations() -> Vec<String> {
    let mut cells = Vec::new();
    for (ns, copy) in
        [(0, ""), (5, "unshare 0 5 mount\n"), (5, "unshare 0 5 user\n")]
    {
        for call in ["bind", "rbind", "move"] {
            for source in STATES {
                for destination in STATES {
                    let source = state("w/a", source, "bind 0 w/a w/b/a");
                    let on = state("w/b", destination, "unshare 0 9 mount");
                    cells.push(format!(
                        "{WORLD}mount 0 3 w/b\n{source}{on}{copy}\
                         {call} {ns} w/a w/b/b\n"
                    ));
                }
            }
        }
    }
    cells
}

/// A mount of each type, with and without a peer, becomes shared, private, slave
/// or unbindable, while it has a slave if it is shared.
pub fn changes_of_type() -> Vec<String> {
    let mut cells = Vec::new();
    let peer = "unshare 0 8 mount\n";
    let alone = STATES.map(|of| (of, ""));
    for (of, peer) in
        alone.into_iter().chain([("shared", peer), ("both", peer)])
    {
        let slave = match of {
            "shared" | "both" => "unshare 0 6 mount\nmake-slave 6 w/a\n",
            _ => "",
        };
        let of = state("w/a", of, "unshare 0 9 mount");
        for kind in ["shared", "private", "slave", "unbindable"] {
            let change = format!("make-{kind} 0 w/a\n");
            cells.push(format!("{WORLD}{of}{peer}{slave}{change}"));
        }
    }
    cells
}

/// What the tables and most walks do not come to.
pub fn lessons() -> Vec<String> {
    let lessons = [
        // An unbindable mount is left out.
        "make-unbindable 0 w/a
rbind 0 w w/b
",
        // A slave is moved onto its own master.
        "make-shared 0 w/a
bind 0 w/a w/b
make-slave 0 w/b
move 0 w/b w/a/a
",
        // What a locked mount covers is not uncovered.
        "unshare 0 5 user
bind 5 w w/b
",
        // A locked mount that covers one which goes, and goes as well itself.
        "make-rshared 0 w
mount 0 3 w/a/a
mount 0 1 w/a/a
unshare 0 5 user
detach 0 w/a
",
        // What is received is locked below its topmost mount.
        "make-rshared 0 w
unshare 0 5 user
mount 0 3 w/a/a
rbind 0 w/a w/b
umount 5 w/b/a
detach 5 w/b
",
    ];
    lessons.map(|it| WORLD.to_string() + it).into()
}

/// After its last operation the mount in namespace 1 is unbindable, or not.
pub const COPY_OF_UNBINDABLE: &str = "\
mount 0 1 w
make-unbindable 0 w
unshare 0 1 mount
";

/// In namespace 1 a private mount covers one that goes with the last operation.
/// Then it is still at `w/a/a`, or at `w/a`.
pub const COVER_OF_WHAT_GOES: &str = "\
mount 0 1 w
make-shared 0 w
unshare 0 1 mount
mount 0 2 w/a
mount 0 3 w/a/a
make-private 1 w/a/a
mount 1 4 w/a/a
detach 0 w/a
";

/// The last operation succeeds, or what is mounted in namespace 1 is locked.
pub const COVER_OF_WHAT_IS_RECEIVED: &str = "\
mount 0 1 w
make-shared 0 w
unshare 0 1 user
mount 1 4 w/a
mount 0 2 w/a
umount 1 w/a
";

/// With the last operation but one a mount is received below a locked one, in
/// namespace 1. After the last one it is still there, or not.
pub const TUCKED_BELOW_A_LOCKED_ONE: &str = "\
mount 0 1 w
make-shared 0 w
bind 0 w/a w/a
unshare 0 1 user
bind 0 w w/b
bind 0 w/b w/b/a
detach 0 w/b
";
