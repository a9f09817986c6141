//! Order of one connection's transactions across retries.
//!
//! Transactions are submitted as they come and usually need no second attempt. One that does waits until everything
//! older on its connection is finished, and everything newer waits for it, so that a client that pipelines sees its
//! effects in its own order even while a leader moves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

/// The transactions of one connection that are not finished.
#[derive(Default)]
pub struct Order {
    next: Cell<u64>,
    /// Ticket -> is it past its first attempt?
    open: RefCell<BTreeMap<u64, bool>>,
    retrying: Cell<usize>,
    wake: Notify,
}

/// One transaction's place; given back when dropped.
pub struct Ticket {
    order: Rc<Order>,
    number: u64,
}

impl Order {
    pub fn enter(self: &Rc<Self>) -> Ticket {
        let number = self.next.get();
        self.next.set(number + 1);
        self.open.borrow_mut().insert(number, false);
        Ticket {
            order: Rc::clone(self),
            number,
        }
    }

    /// True if a new transaction must not be submitted at once.
    pub fn blocked(&self) -> bool {
        self.retrying.get() > 0
    }
}

impl Ticket {
    /// Holds newer transactions back, and waits until this is the oldest.
    pub async fn first(&self) {
        if let Some(retrying) = self.order.open.borrow_mut().get_mut(&self.number)
            && !*retrying
        {
            *retrying = true;
            self.order.retrying.set(self.order.retrying.get() + 1);
        }
        loop {
            let changed = self.order.wake.notified();
            let oldest = self.order.open.borrow().keys().next().copied();
            if oldest.is_none_or(|o| o >= self.number) {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.order.open.borrow_mut().remove(&self.number) == Some(true) {
            self.order.retrying.set(self.order.retrying.get() - 1);
        }
        if self.order.retrying.get() > 0 {
            self.order.wake.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_retry_waits_for_older_and_holds_newer() {
        let order = Rc::new(Order::default());
        let (a, b) = (order.enter(), order.enter());
        assert!(!order.blocked());
        let mut waiting = Box::pin(b.first());
        assert!((&mut waiting).now_or_never().is_none());
        assert!(order.blocked());
        drop(a);
        assert!((&mut waiting).now_or_never().is_some());
        drop(waiting);
        let c = order.enter();
        assert!(c.first().now_or_never().is_none());
        drop(b);
        assert!(c.first().now_or_never().is_some());
        drop(c);
        assert!(!order.blocked());
    }
}
