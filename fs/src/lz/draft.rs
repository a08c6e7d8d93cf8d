//! Edits of the archive that are made in its view already, and how that ends.

use super::archive::{Edits, MemberId, Pin};
use super::stage::Stage;
use super::touched::Paths;
use super::view::{Number, TOP, View};
use crate::stat::Id;
use std::collections::{HashMap, HashSet};
use std::fs::File;

/// One step of the view, to be taken back when the commit fails.
pub(super) enum Step {
    Inserted(Number),
    TakenOut(Number, Number, Box<[u8]>),
    Inode(Number, Option<Id>),
}

/// Edits of the archive, made in the view already.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) steps: Vec<Step>,
    /// In order.
    pub(super) edits: Edits,
    /// The nodes of puts, directories and symbolic links, in the order of their edits.
    pub(super) made: Vec<Number>,
    /// Sources are named by their descriptors, so that renames meanwhile do not matter.
    pub(super) files: Vec<File>,
    pub(super) bytes: u64,
    /// Contents that leave, of files that programs may have open.
    pub(super) pins: HashMap<Id, Pin>,
    /// Not reported yet: the archive keeps what it has.
    pub(super) waiting: Paths,
    /// Left for the next commit, because this one is big enough.
    pub(super) left: Paths,
}

impl Draft {
    /// The commit was made: the nodes have these members now.
    pub(super) fn done(mut self, view: &mut View, stage: &Stage, ids: &[Option<MemberId>]) {
        for (&number, id) in self.made.iter().zip(ids) {
            view.set_member(number, *id);
        }
        let taken: HashSet<Number> = self.steps.iter().filter_map(Step::taken_out).collect();
        let out: Vec<Number> =
            taken.into_iter().filter(|&number| number != TOP && view.parent(number).is_none()).collect();
        let mut unnamed = Vec::new();
        let mut inodes = stage.inodes.lock();
        for number in out {
            view.drop_out(number, &mut |id| {
                inodes.nodes.remove(&id);
                inodes.patched.remove(&id);
                let Some(pin) = self.pins.remove(&id) else {
                    inodes.hollow.remove(&id);
                    return;
                };
                if let Some(hollow) = inodes.hollow.get(&id).cloned() {
                    *hollow.pin.lock() = Some(pin);
                    inodes.unnamed.insert(hollow.ino, id);
                    unnamed.push(hollow.ino);
                }
            });
        }
        drop(inodes);
        // Perhaps meanwhile.
        unnamed.into_iter().for_each(|ino| stage.forgotten(ino));
    }

    /// The commit was not made: the view is what it was.
    pub(super) fn undo(self, view: &mut View, stage: &Stage) {
        let mut inodes = stage.inodes.lock();
        for step in self.steps.into_iter().rev() {
            match step {
                Step::Inserted(number) => {
                    view.take_out(number);
                    view.drop_out(number, &mut |id| {
                        inodes.nodes.remove(&id);
                    });
                }
                Step::TakenOut(number, dir, name) => {
                    view.take_out(number);
                    view.put_in(number, dir, &name);
                }
                Step::Inode(number, inode) => {
                    if let Some(id) = view.inode(number) {
                        inodes.nodes.remove(&id);
                    }
                    view.set_inode(number, inode);
                    inodes.nodes.extend(inode.map(|id| (id, number)));
                }
            }
        }
    }
}

impl Step {
    fn taken_out(&self) -> Option<Number> {
        if let Self::TakenOut(number, ..) = self { Some(*number) } else { None }
    }
}
