//! A waiter who started a flight, and makes its calls.
//!
//! While the one who came first waits, the flight needs no task of its own: its steps are taken whenever the waiter is polled, which saves
//! two changes of task for each call. When that waiter has left, or has been told something that does not end the flight, the flight goes on
//! as a task.
//!
//! A waiter who is not polled would hold up those who joined: the server polls a request whenever anything happens to it, until it is
//! answered or dropped.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use tokio::runtime::Handle;
use tokio::sync::oneshot::error::TryRecvError;
use tracing::Instrument as _;

use crate::BoxError;
use crate::scan::Served;
use crate::single_flight::FlightDropped;
use crate::single_flight::flight_result::ResultReceiver;
use crate::single_flight::flight_table::WaiterGuard;
use crate::single_flight::layer::served;
use crate::task::Tasks;

/// The answer to a waiter who started a flight. Dropped, it strikes the waiter off; the flight goes on for the others.
///
/// It knows no time: who leads is refused by the queue itself, which says exactly when to come back.
#[must_use = "futures do nothing unless polled"]
pub struct Lead {
    // Before the pilot: a flight that nobody wants any more is recalled.
    _seat: WaiterGuard,
    inbox: ResultReceiver,
    pilot: FlightTask,
}

impl Lead {
    /// `driver` is the flight's, to its end.
    pub(super) fn new(
        seat: WaiterGuard,
        inbox: ResultReceiver,
        driver: impl Future<Output = ()> + Send + 'static,
        tasks: Tasks,
    ) -> Self {
        // As the tasks are called.
        let driver = driver.instrument(tracing::debug_span!(parent: None, "task", name = "flight"));
        Self {
            _seat: seat,
            inbox,
            pilot: FlightTask {
                driver: Some(Box::pin(driver)),
                wake_signal: Arc::new(WakeSignal {
                    signalled: AtomicBool::new(true),
                    waiter: AtomicWaker::new(),
                }),
                tasks,
            },
        }
    }
}

impl Future for Lead {
    type Output = Result<Served, BoxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.pilot.fly(context) {
            return Poll::Pending;
        }
        // All news come from the journey: there is none to be woken for.
        let flight_result = match self.inbox.try_recv() {
            Ok(flight_result) => flight_result,
            Err(TryRecvError::Empty) if self.pilot.driver.is_some() => return Poll::Pending,
            Err(_) => return Poll::Ready(Err(FlightDropped.into())),
        };
        self.pilot.hand_over();
        Poll::Ready(flight_result.map(|arrival| served(&arrival)).map_err(Into::into))
    }
}

impl fmt::Debug for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").finish_non_exhaustive()
    }
}

/// Brings a flight to its end, whoever leaves.
struct FlightTask {
    driver: Option<BoxFuture<'static, ()>>,
    wake_signal: Arc<WakeSignal>,
    tasks: Tasks,
}

/// Tells whether the flight has something to do. The waiter is polled for other reasons too, at least once for each request, and to poll a
/// flight means to go through all that is below.
struct WakeSignal {
    signalled: AtomicBool,
    waiter: AtomicWaker,
}

impl Wake for WakeSignal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.signalled.store(true, Ordering::Release);
        self.waiter.wake();
    }
}

impl FlightTask {
    /// Flies on; `false` when there was nothing to do.
    fn fly(&mut self, context: &mut Context<'_>) -> bool {
        let Some(driver) = &mut self.driver else {
            return true;
        };
        // Before the look: a ring in between is not lost.
        self.wake_signal.waiter.register(context.waker());
        if !self.wake_signal.signalled.swap(false, Ordering::Acquire) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&self.wake_signal));
        let mut context = Context::from_waker(&waker);
        // What it has changed is behind locks that are not held meanwhile.
        match catch_unwind(AssertUnwindSafe(|| driver.as_mut().poll(&mut context))) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => self.driver = None,
            Err(panic) => {
                // It ends the flight, for those who joined as well. The request itself is to be counted as one that panicked.
                self.driver = None;
                resume_unwind(panic);
            }
        }
        true
    }

    /// What is left goes on as a task.
    fn hand_over(&mut self) {
        // While the runtime goes down there is no way to go on.
        if let Some(driver) = self.driver.take().filter(|_| Handle::try_current().is_ok()) {
            self.tasks.spawn("flight", driver);
        }
    }
}

impl Drop for FlightTask {
    fn drop(&mut self) {
        self.hand_over();
    }
}
