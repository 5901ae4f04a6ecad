//! Wakes a connection's task, and says for which of its partitions: the others are not looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// The bell of one partition of a connection.
pub(super) struct Bell {
    bell: Arc<Rung>,
    waker: Waker,
}

struct Rung {
    is_rung: AtomicBool,
    /// The connection's task.
    task: Arc<AtomicWaker>,
}

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }
}

impl Bell {
    /// A bell that wakes this task. It has rung: there is something to be seen at first.
    pub(super) fn new(task: &Arc<AtomicWaker>) -> Self {
        let bell = Arc::new(Rung { is_rung: AtomicBool::new(true), task: Arc::clone(task) });
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// Rings it, for a task that is about to look.
    pub(super) fn ring(&self) {
        self.bell.is_rung.store(true, Ordering::Release);
    }

    /// Whether it has rung since this was last asked.
    pub(super) fn answer(&self) -> bool {
        self.bell.is_rung.swap(false, Ordering::AcqRel)
    }

    /// The context to look in: what is waited for then rings the bell.
    pub(super) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_wakes_the_task_and_only_its_own_partition_is_looked_at() {
        let task = Arc::new(AtomicWaker::new());
        let (one, other) = (Bell::new(&task), Bell::new(&task));
        assert!(one.answer() && other.answer(), "at first both are looked at");
        let (woken, waker) = counting();
        task.register(&waker);
        one.context().waker().wake_by_ref();
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        assert!(one.answer() && !one.answer() && !other.answer());
    }

    struct Count(std::sync::atomic::AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    impl std::ops::Deref for Count {
        type Target = std::sync::atomic::AtomicUsize;
        fn deref(&self) -> &Self::Target {
            &self.0
        }
    }
    fn counting() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count(Default::default()));
        (count.clone(), Waker::from(count))
    }
}
