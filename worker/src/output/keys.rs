//! The keys of a log and where the newest value of each is. Most sessions have a few, and none more
//! than a thousand: a sorted list takes a third of a hash map's room, and is as fast.

use single_state_proto::id::Revision;

/// Keys, each once.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<(Box<str>, Revision)>);

impl Keys {
    fn place(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(key))
    }

    /// Where the newest value of a key is.
    pub(super) fn get(&self, key: &str) -> Option<Revision> {
        self.place(key).ok().map(|at| self.0[at].1)
    }

    /// A newer value of a key is there. Returns where the one before is.
    pub(super) fn set(&mut self, key: &str, newest: Revision) -> Option<Revision> {
        match self.place(key) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, newest)),
            Err(at) => {
                if self.0.is_empty() {
                    // Many sessions never have more than one.
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, (key.into(), newest));
                None
            }
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
