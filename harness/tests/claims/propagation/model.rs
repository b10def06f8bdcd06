//! A model of mount propagation: the mounts of several namespaces, and what
//! each system call does to them. It was written from what kernels did, not
//! from their source. Each rule can be switched off, to see what depends on it.
//!
//! On older kernels two things depend on the order in which the kernel goes
//! through its mounts, which the model does not have: see
//! [`Model::order_matters`].

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

/// A directory of a file system, by its path there.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub fs: u32,
    pub path: String,
}

impl Place {
    pub fn root(fs: u32) -> Place {
        Place { fs, path: "/".into() }
    }

    pub fn join(&self, name: &str) -> Place {
        let dir = self.path.trim_end_matches('/');
        Place { fs: self.fs, path: format!("{dir}/{name}") }
    }

    fn is_below(&self, root: &Place) -> bool {
        let rest = self.path.strip_prefix(root.path.trim_end_matches('/'));
        self.fs == root.fs
            && rest.is_some_and(|it| it.is_empty() || it.starts_with('/'))
    }
}

/// A mount's number, as in /proc/self/mountinfo. Those of the model and those
/// of the kernel are not the same.
pub type Id = u32;

/// A peer group's number. None for a mount that is not shared.
pub type Group = Option<u32>;

/// A mount. It is private if it is neither shared nor a slave.
#[derive(Clone, Default, Debug)]
pub struct Mount {
    pub namespace: u32,
    /// None for the lowest mount of a namespace, and for what is not yet
    /// mounted.
    pub parent: Option<Id>,
    /// The mount point, a place in the parent's file system.
    pub at: Place,
    /// What is seen there: the root of a file system, or a place below it.
    pub root: Place,
    /// Shared: the peer group that it is in.
    pub group: Group,
    /// Slave: the peer group that it receives from.
    pub master: Group,
    pub unbindable: bool,
    pub locked: bool,
}

/// Defines these rules, and a list of all.
macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident,)*) => {
        /// What the model knows: see [`Model::without`].
        #[derive(Clone, Copy, PartialEq, Debug)]
        pub enum Rule {
            $($(#[$doc])* $rule,)*
        }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$rule),*];
        }
    };
}

rules! {
    /// What is mounted on a shared mount is mounted on its peers as well.
    Peers,
    /// ... and on the slaves of the peer group.
    Slaves,
    /// ... and from a slave that is shared too, on its peers and slaves.
    SlaveAndShared,
    /// A mount receives what lies below its own root, and nothing else.
    BelowItsRoot,
    /// What is mounted on a shared mount becomes shared, and its copies are its
    /// peers or its slaves.
    BecomesShared,
    /// ... after it has been passed on: a slave that is moved onto its own
    /// master receives a copy of itself, which is not shared.
    SharedAfterwards,
    /// What a mount receives where another is mounted already goes below that.
    Tucked,
    /// An unmount is passed on as a mount is.
    UmountTravels,
    /// ... but what has a mount of its own on it stays.
    CoveredStays,
    /// ... unless that lies on its very root: then it comes down.
    ComesDown,
    /// A mount that is no longer shared is the slave of its former peers, if
    /// there are any.
    SlaveOfPeers,
    /// The slaves of a peer group that ended go to that group's own master.
    SlavesGoUp,
    /// An unbindable mount cannot be bound.
    UnbindableAlone,
    /// ... is left out where the tree around it is bound,
    UnbindableLeftOut,
    /// ... and cannot be moved onto a shared mount.
    UnbindableStays,
    /// A mount on a shared mount cannot be moved.
    NoMoveFromShared,
    /// In a copy of the namespace that belongs to another user namespace, what
    /// was shared is a slave.
    OtherUserSlave,
    /// ... and is locked: it can be neither unmounted nor moved.
    OtherUserLocked,
    /// What such a namespace receives is locked below its topmost mount.
    ReceivedLocked,
    /// What a locked mount covers is not uncovered by a bind mount.
    LockedCovers,
    /// A locked mount stays when an unmount is passed on to it, if its parent
    /// stays.
    LockedStays,
    /// ... but an unmount unlocks the copies of the mount that is unmounted.
    UmountUnlocks,
}

/// How a system call ended.
pub type Done = Result<(), Errno>;

/// The mounts of all namespaces. Paths are relative to the lowest mount of a
/// namespace, which has one directory, `w`.
#[derive(Clone, Default)]
pub struct Model {
    pub mounts: BTreeMap<Id, Mount>,
    /// The user namespace that owns each mount namespace.
    owners: BTreeMap<u32, u32>,
    /// How many numbers of mounts and groups there have been.
    numbers: u32,
    kernel: Kernel,
    without: Option<Rule>,
    /// What is there now depends on the order in which the kernel went through
    /// its mounts. So nothing is predicted from here on. There are two cases:
    ///
    /// - `falls_through`: what covered one mount, and what covered another that
    ///   was on it, have both fallen to the place of the first. A path leads to
    ///   the one that fell last.
    /// - `locks_cover`: a mount and another that lies on it have both received
    ///   something. If the lower one was the last, what the upper one has
    ///   received is locked.
    pub order_matters: bool,
}

/// What kernels differ in.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Kernel {
    /// Is "unbindable" lost in a copy of the namespace? From Linux 6.17 to 7.1
    /// it is: a fault of these kernels.
    pub loses_unbindable: bool,
    /// What covers a mount that goes comes down to its place. If the mount that
    /// this place is in could go as well, does it go, and the cover falls
    /// through to *its* place, which is another directory? Before Linux 6.17
    /// it does, and so does a locked cover that would go as well.
    pub falls_through: bool,
    /// Is what covers a received mount locked to it, in the namespace of another
    /// user namespace? In older kernels it is, so nobody there can unmount any
    /// more what he has mounted himself.
    pub locks_cover: bool,
    /// Is a received mount locked, if it goes below one that is? On Linux 7.2 it
    /// is, on 6.18 it is not.
    pub locks_tucked: bool,
}

impl Model {
    /// One namespace, 0, with one mount.
    pub fn new(kernel: Kernel) -> Model {
        let owners = BTreeMap::from([(0, 0)]);
        let mut model = Model { owners, kernel, ..Model::default() };
        model.insert(Mount { root: Place::root(0), ..Mount::default() });
        model
    }

    /// The same without this rule.
    pub fn without(mut self, rule: Rule) -> Model {
        self.without = Some(rule);
        self
    }

    fn knows(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    pub fn namespaces(&self) -> Vec<u32> {
        self.owners.keys().copied().collect()
    }

    /// The lowest mount of a namespace.
    pub fn lowest(&self, namespace: u32) -> Id {
        let mut all = self.mounts.iter();
        let lowest = all
            .find(|(_, it)| it.namespace == namespace && it.parent.is_none());
        *lowest.expect("a namespace").0
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn insert(&mut self, mount: Mount) -> Id {
        let id = self.number();
        self.mounts.insert(id, mount);
        id
    }

    fn change(&mut self, id: Id) -> &mut Mount {
        self.mounts.get_mut(&id).expect("a mount")
    }

    fn which(&self, wanted: impl Fn(&Mount) -> bool) -> Vec<Id> {
        let all = self.mounts.iter().filter(|(_, mount)| wanted(mount));
        all.map(|(id, _)| *id).collect()
    }

    /// What is mounted on this mount.
    fn children(&self, id: Id) -> Vec<Id> {
        self.which(|it| it.parent == Some(id))
    }

    /// What is mounted on this mount at this place.
    fn child(&self, id: Id, at: &Place) -> Option<Id> {
        self.which(|it| it.parent == Some(id) && it.at == *at).pop()
    }

    /// The mount, and all that is mounted on it, parents first.
    fn tree(&self, id: Id) -> Vec<Id> {
        let mut tree = vec![id];
        let mut next = 0;
        while let Some(parent) = tree.get(next) {
            tree.extend(self.children(*parent));
            next += 1;
        }
        tree
    }

    /// Do two mounts lie on one mount, at the same place?
    fn has_two_at_one_place(&self) -> bool {
        let mut seen = BTreeSet::new();
        let mut all = self.mounts.values();
        all.any(|it| it.parent.is_some() && !seen.insert((it.parent, &it.at)))
    }

    /// The mount and the place in it that a path leads to: where mounts are
    /// stacked, the topmost.
    fn resolve(&self, ns: u32, path: &str) -> Result<(Id, Place), Errno> {
        let mut mount = self.lowest(ns);
        let mut place = self.mounts[&mount].root.clone();
        for name in path.split('/') {
            place = place.join(name);
            let depth = place.path.matches('/').count();
            match place.fs {
                0 if place.path == "/w" => {}
                1..=3 if depth <= 2 => {}
                _ => return Err(Errno::ENOENT),
            }
            while let Some(top) = self.child(mount, &place) {
                mount = top;
                place = self.mounts[&top].root.clone();
            }
        }
        Ok((mount, place))
    }

    /// The mount whose root a path leads to.
    pub fn mount_at(&self, namespace: u32, path: &str) -> Result<Id, Errno> {
        let (mount, place) = self.resolve(namespace, path)?;
        let is_root = place == self.mounts[&mount].root;
        if is_root { Ok(mount) } else { Err(Errno::EINVAL) }
    }

    /// The mount point as a path.
    pub fn path(&self, id: Id) -> String {
        let mount = &self.mounts[&id];
        let Some(parent) = mount.parent else { return "/media".into() };
        let root = self.mounts[&parent].root.path.trim_end_matches('/');
        // Without a rule a mount point may lie outside of what is seen.
        let below = mount.at.path.strip_prefix(root).unwrap_or("/nowhere");
        self.path(parent) + below.trim_end_matches('/')
    }

    /// mount(2) of a file system.
    pub fn mount(&mut self, namespace: u32, fs: u32, on: &str) -> Done {
        let (on, at) = self.resolve(namespace, on)?;
        let new = Mount { root: Place::root(fs), ..Mount::default() };
        let new = self.insert(new);
        self.attach(new, on, at);
        Ok(())
    }

    /// mount(2) with MS_BIND, and with MS_REC too.
    pub fn bind(&mut self, ns: u32, from: &str, to: &str, rec: bool) -> Done {
        let (from, root) = self.resolve(ns, from)?;
        let (on, at) = self.resolve(ns, to)?;
        let unbindable = self.mounts[&from].unbindable;
        if unbindable && self.knows(Rule::UnbindableAlone) {
            return Err(Errno::EINVAL);
        }
        let below = |it: &Id| self.mounts[it].at.is_below(&root);
        let locked = |it: &Id| self.mounts[it].locked;
        let covered =
            self.children(from).iter().any(|it| below(it) && locked(it));
        if !rec && covered && self.knows(Rule::LockedCovers) {
            return Err(Errno::EINVAL);
        }
        let mut tree = vec![from];
        for id in self.tree(from).into_iter().skip(1).filter(|_| rec) {
            let mount = &self.mounts[&id];
            let is_below = mount.parent != Some(from) || below(&id);
            if !is_below || !mount.parent.is_some_and(|it| tree.contains(&it)) {
                continue;
            }
            match mount.unbindable && self.knows(Rule::UnbindableLeftOut) {
                true if mount.locked => return Err(Errno::EPERM),
                true => {}
                false => tree.push(id),
            }
        }
        let top = self.copy(&tree)[&from];
        let mount = self.change(top);
        (mount.root, mount.locked) = (root, false);
        self.attach(top, on, at);
        Ok(())
    }

    /// mount(2) with MS_MOVE.
    pub fn move_mount(&mut self, ns: u32, from: &str, to: &str) -> Done {
        let (from, place) = self.resolve(ns, from)?;
        let (on, at) = self.resolve(ns, to)?;
        let mount = &self.mounts[&from];
        let locked = mount.locked && self.knows(Rule::OtherUserLocked);
        if place != mount.root || locked {
            return Err(Errno::EINVAL);
        }
        let parent = mount.parent.ok_or(Errno::EINVAL)?;
        let shared = |id: &Id| self.mounts[id].group.is_some();
        if shared(&parent) && self.knows(Rule::NoMoveFromShared) {
            return Err(Errno::EINVAL);
        }
        let tree = self.tree(from);
        let unbindable = tree.iter().any(|it| self.mounts[it].unbindable);
        if shared(&on) && unbindable && self.knows(Rule::UnbindableStays) {
            return Err(Errno::EINVAL);
        }
        if tree.contains(&on) {
            return Err(Errno::ELOOP);
        }
        self.attach(from, on, at);
        Ok(())
    }

    /// mount(2) with MS_SHARED, MS_PRIVATE, MS_SLAVE or MS_UNBINDABLE, and with
    /// MS_REC too.
    pub fn make(&mut self, ns: u32, path: &str, kind: &str, rec: bool) -> Done {
        let top = self.mount_at(ns, path)?;
        for id in if rec { self.tree(top) } else { vec![top] } {
            let group = self.mounts[&id].group;
            match kind {
                "shared" => {
                    let group = group.unwrap_or_else(|| self.number());
                    self.change(id).group = Some(group);
                    self.change(id).unbindable = false;
                }
                "slave" => {
                    let peers = self.leave(id);
                    if peers && self.knows(Rule::SlaveOfPeers) {
                        self.change(id).master = group;
                    }
                }
                _ => {
                    self.leave(id);
                    self.change(id).master = None;
                    self.change(id).unbindable = kind == "unbindable";
                }
            }
        }
        Ok(())
    }

    /// The mount leaves its peer group. Is anything left of that?
    fn leave(&mut self, id: Id) -> bool {
        let Mount { group, master, .. } = self.mounts[&id];
        self.change(id).group = None;
        if group.is_none() {
            return false;
        }
        if self.mounts.values().any(|it| it.group == group) {
            return true;
        }
        let up = master.filter(|_| self.knows(Rule::SlavesGoUp));
        for slave in self.which(|it| it.master == group) {
            self.change(slave).master = up;
        }
        false
    }

    /// Copies of these mounts, parents first, by the numbers of the mounts that
    /// they are copies of. The topmost is not mounted anywhere.
    fn copy(&mut self, tree: &[Id]) -> BTreeMap<Id, Id> {
        let mut copies = BTreeMap::new();
        for id in tree {
            let mount = self.mounts[id].clone();
            let parent = mount.parent.and_then(|it| copies.get(&it).copied());
            copies.insert(*id, self.insert(Mount { parent, ..mount }));
        }
        copies
    }

    /// The tree is mounted on this mount, at this place of it, and copies of it
    /// on all that receive from that.
    fn attach(&mut self, tree: Id, on: Id, at: Place) {
        let moved = self.tree(tree);
        let is_new = self.mounts[&tree].parent.is_none();
        let mut copies = Vec::new();
        if let Some(group) = self.mounts[&on].group {
            // In what group a copy of a mount is, by the group of its receiver.
            let mut groups = BTreeMap::new();
            for id in &moved {
                let own = self.mounts[id].group;
                let own = own.unwrap_or_else(|| self.number());
                groups.insert((group, *id), own);
                if !self.knows(Rule::SharedAfterwards) {
                    self.change(*id).group = Some(own);
                }
            }
            let not = if is_new { &moved[..] } else { &[] };
            for (receiver, own, from) in self.receivers(on, &at, not) {
                let copied = self.copy(&moved);
                for (old, new) in &copied {
                    let mut group_in = |group: u32| {
                        let new = || self.number();
                        *groups.entry((group, *old)).or_insert_with(new)
                    };
                    let [group, master] =
                        [own, from].map(|it| it.map(&mut group_in));
                    let shared = self.knows(Rule::BecomesShared);
                    let copy = self.change(*new);
                    copy.group = group.filter(|_| shared);
                    copy.master = master.filter(|_| shared).or(copy.master);
                }
                copies.push((copied[&tree], receiver));
            }
            for id in &moved {
                if self.knows(Rule::BecomesShared) {
                    self.change(*id).group = Some(groups[&(group, *id)]);
                }
                self.change(*id).unbindable = false;
            }
        }
        let namespace = self.mounts[&on].namespace;
        for id in moved {
            self.change(id).namespace = namespace;
        }
        self.change(tree).parent = Some(on);
        self.change(tree).at = at.clone();
        for &(copy, receiver) in &copies {
            let to = self.mounts[&receiver].namespace;
            let received = self.tree(copy);
            let there = self.child(receiver, &at);
            let top = self.change(copy);
            (top.parent, top.at) = (Some(receiver), at.clone());
            if let Some(there) = there {
                // What is there already goes on top of the new mount, or, if
                // the rule did not hold, the new one on top of it.
                let (above, below) = match self.knows(Rule::Tucked) {
                    true => (there, copy),
                    false => (copy, there),
                };
                let root = self.mounts[&below].root.clone();
                let above = self.change(above);
                (above.parent, above.at) = (Some(below), root);
            }
            received.iter().for_each(|id| self.change(*id).namespace = to);
            let locked = match self.kernel.locks_cover {
                true => self.tree(copy),
                false => received,
            };
            let other_user = self.owners[&to] != self.owners[&namespace];
            if other_user && self.knows(Rule::ReceivedLocked) {
                locked.iter().for_each(|id| self.change(*id).locked = true);
            }
            let below_locked = there.is_some_and(|it| self.mounts[&it].locked);
            let locked = below_locked && self.kernel.locks_tucked;
            self.change(copy).locked = locked;
        }
        let is_copy = |id: &Id| copies.iter().any(|(copy, _)| copy == id);
        let on_another = |(copy, _): &(Id, Id)| {
            let to = self.mounts[copy].namespace;
            self.owners[&to] != self.owners[&namespace]
                && self.tree(*copy)[1..].iter().any(is_copy)
        };
        self.order_matters |=
            self.kernel.locks_cover && copies.iter().any(on_another);
    }

    /// The mounts, but NOT these, that receive what is mounted on this one at
    /// this place. Each with the peer group in which it passes that on, and the
    /// one that it has received it from, if it is no peer.
    fn receivers(
        &self,
        on: Id,
        at: &Place,
        not: &[Id],
    ) -> Vec<(Id, Group, Group)> {
        let receives = |it: &Mount| {
            let sees = at.fs == it.root.fs && !self.knows(Rule::BelowItsRoot);
            sees || at.is_below(&it.root)
        };
        let others = |wanted: &dyn Fn(&Mount) -> bool| {
            let mut others = self.which(wanted);
            others.retain(|it| *it != on && !not.contains(it));
            others
        };
        let mut groups = vec![(self.mounts[&on].group, None)];
        let mut receivers = Vec::new();
        let mut next = 0;
        while let Some(&(group @ Some(_), from)) = groups.get(next) {
            next += 1;
            let peers = others(&|it| it.group == group && receives(it));
            // Where none receives, what comes is only passed on.
            let passed_by =
                if next > 1 && peers.is_empty() { from } else { group };
            if next > 1 || self.knows(Rule::Peers) {
                receivers.extend(peers.into_iter().map(|it| (it, group, from)));
            }
            if !self.knows(Rule::Slaves) {
                break;
            }
            for slave in others(&|it| it.master == group) {
                let mount = &self.mounts[&slave];
                let own = mount.group;
                let own = own.filter(|_| self.knows(Rule::SlaveAndShared));
                if own.is_none() && receives(mount) {
                    receivers.push((slave, None, passed_by));
                }
                if own.is_some() && !groups.iter().any(|(it, _)| *it == own) {
                    groups.push((own, passed_by));
                }
            }
        }
        receivers
    }

    /// umount2(2), and with MNT_DETACH.
    pub fn umount(&mut self, ns: u32, path: &str, detach: bool) -> Done {
        let top = self.mount_at(ns, path)?;
        let mount = &self.mounts[&top];
        if mount.locked && self.knows(Rule::OtherUserLocked) {
            return Err(Errno::EINVAL);
        }
        if !detach && !self.children(top).is_empty() {
            return Err(Errno::EBUSY);
        }
        let going = self.tree(top);
        // What is at the same places of what receives from the parents.
        let copies_of = |id: &Id| -> Vec<Id> {
            let Mount { parent, at, .. } = &self.mounts[id];
            let receivers = self.receivers(parent.expect("a parent"), at, &[]);
            let receivers = receivers.into_iter();
            receivers.filter_map(|(it, ..)| self.child(it, at)).collect()
        };
        let copies: BTreeSet<Id> = going.iter().flat_map(copies_of).collect();
        let of_the_top = copies_of(&top);
        if self.knows(Rule::UmountUnlocks) {
            of_the_top.iter().for_each(|it| self.change(*it).locked = false);
        }
        let mut all: BTreeSet<Id> = going.iter().copied().collect();
        if self.knows(Rule::UmountTravels) {
            all.extend(&copies);
        }
        // What stays keeps its parent from going, too.
        while let Some(id) = all.iter().copied().find(|it| {
            !going.contains(it)
                && (self.is_held(*it, &all) || self.is_locked(*it, &all))
        }) {
            all.remove(&id);
        }
        self.remove(&all);
        self.order_matters |= self.has_two_at_one_place();
        Ok(())
    }

    /// Is there a mount on it that stays, when these go?
    fn is_held(&self, id: Id, going: &BTreeSet<Id>) -> bool {
        let mut children = self.children(id);
        if self.knows(Rule::ComesDown) {
            children.retain(|it| self.mounts[it].at != self.mounts[&id].root);
        }
        let stays = |mut id: Id| {
            // What covers a child that goes would come down here.
            while going.contains(&id) && !self.kernel.falls_through {
                match self.child(id, &self.mounts[&id].root) {
                    Some(cover) => id = cover,
                    None => return false,
                }
            }
            !going.contains(&id)
        };
        self.knows(Rule::CoveredStays) && children.into_iter().any(stays)
    }

    /// Is it locked to a parent that stays, when these go?
    fn is_locked(&self, id: Id, going: &BTreeSet<Id>) -> bool {
        let Mount { locked, parent, at, .. } = &self.mounts[&id];
        let goes_with = |parent: &Id| {
            let covers = *at == self.mounts[parent].root;
            going.contains(parent) && !(covers && self.kernel.falls_through)
        };
        *locked
            && self.knows(Rule::LockedStays)
            && !parent.as_ref().is_some_and(goes_with)
    }

    /// These are gone. What covered one of them comes down to its place.
    fn remove(&mut self, going: &BTreeSet<Id>) {
        for id in self.which(|_| true) {
            if going.contains(&id) {
                continue;
            }
            while let Some(parent) = self.mounts[&id].parent
                && going.contains(&parent)
            {
                let Mount { parent, at, .. } = self.mounts[&parent].clone();
                let mount = self.change(id);
                (mount.parent, mount.at) = (parent, at);
            }
        }
        for id in going {
            self.leave(*id);
            self.change(*id).master = None;
        }
        self.mounts.retain(|id, _| !going.contains(id));
    }

    /// unshare(2) with CLONE_NEWNS by root of the initial user namespace; with
    /// CLONE_NEWUSER too, if USER.
    pub fn copy_namespace(&mut self, from: u32, to: u32, user: bool) -> Done {
        let lowest = self.lowest(from);
        let copies = self.copy(&self.tree(lowest));
        // Without CLONE_NEWUSER the new one is the initial user namespace's,
        // also if the old one is not.
        let owner = if user { to } else { 0 };
        let other_user = owner != self.owners[&from];
        self.owners.insert(to, owner);
        for (old, id) in &copies {
            let loses_unbindable = self.kernel.loses_unbindable;
            let slave = other_user && self.knows(Rule::OtherUserSlave);
            let mount = self.change(*id);
            mount.namespace = to;
            mount.unbindable &= !loses_unbindable;
            if slave && mount.group.is_some() {
                mount.master = mount.group.take();
            }
            mount.locked |= other_user && *old != lowest;
        }
        Ok(())
    }

    /// The last process of a namespace, and all that keeps it, is gone.
    pub fn end_namespace(&mut self, namespace: u32) -> Done {
        let all = self.which(|it| it.namespace == namespace);
        self.remove(&all.into_iter().collect());
        self.owners.remove(&namespace);
        Ok(())
    }
}
