//! The future of the waiter that started a flight, which also drives the flight.
//!
//! As long as the first waiter is there, the flight needs no task of its own: it makes progress
//! whenever the waiter is polled, which saves two task switches for each call. When that waiter has
//! left, or has got a result that does not end the flight, the flight goes on as a task.
//!
//! A waiter that is not polled would hold up those that joined. The server polls a request whenever
//! anything happens to it, until it is answered or dropped.

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
use crate::scan::ServedResponse;
use crate::single_flight::FlightDropped;
use crate::single_flight::flight_result::ResultReceiver;
use crate::single_flight::flight_table::WaiterGuard;
use crate::single_flight::layer::served;
use crate::task::Tasks;

/// The response for the waiter that started a flight. Dropping it removes the waiter; the flight
/// goes on for the others.
///
/// It needs no timer of its own: the queue rejects the leader's call at its deadline, and says
/// exactly when to come back.
#[must_use = "futures do nothing unless polled"]
pub struct LeaderFuture {
    // Dropped before the task, so that a flight without waiters is cancelled and not spawned.
    _guard: WaiterGuard,
    receiver: ResultReceiver,
    task: FlightTask,
}

impl LeaderFuture {
    /// `driver` drives the flight to its end.
    pub(super) fn new(
        guard: WaiterGuard,
        receiver: ResultReceiver,
        driver: impl Future<Output = ()> + Send + 'static,
        tasks: Tasks,
    ) -> Self {
        // The same span as spawned tasks have.
        let driver = driver.instrument(tracing::debug_span!(parent: None, "task", name = "flight"));
        Self {
            _guard: guard,
            receiver,
            task: FlightTask {
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

impl Future for LeaderFuture {
    type Output = Result<ServedResponse, BoxError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.task.poll_driver(context) {
            return Poll::Pending;
        }
        // Only the driver sends results, so there is no need to register for a wake-up.
        let flight_result = match self.receiver.try_recv() {
            Ok(flight_result) => flight_result,
            Err(TryRecvError::Empty) if self.task.driver.is_some() => return Poll::Pending,
            Err(_) => return Poll::Ready(Err(FlightDropped.into())),
        };
        self.task.hand_over();
        Poll::Ready(flight_result.map(|response| served(&response)).map_err(Into::into))
    }
}

impl fmt::Debug for LeaderFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lead").finish_non_exhaustive()
    }
}

/// Drives a flight to its end, also after its first waiter has left.
struct FlightTask {
    driver: Option<BoxFuture<'static, ()>>,
    wake_signal: Arc<WakeSignal>,
    tasks: Tasks,
}

/// Tells whether the driver was woken. The waiter is polled for other reasons too, at least once
/// for each request, and polling the driver polls all layers below.
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
    /// Polls the driver if it was woken; `false` when it was not.
    fn poll_driver(&mut self, context: &mut Context<'_>) -> bool {
        let Some(driver) = &mut self.driver else {
            return true;
        };
        // Registered before the flag is read, so that no wake-up in between is lost.
        self.wake_signal.waiter.register(context.waker());
        if !self.wake_signal.signalled.swap(false, Ordering::Acquire) {
            return false;
        }
        let waker = Waker::from(Arc::clone(&self.wake_signal));
        let mut context = Context::from_waker(&waker);
        // All state that the driver changes is behind locks that are not held across a poll.
        match catch_unwind(AssertUnwindSafe(|| driver.as_mut().poll(&mut context))) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) => self.driver = None,
            Err(panic) => {
                // The flight ends for all its waiters. The panic goes on, so that this request is
                // counted as one that panicked.
                self.driver = None;
                resume_unwind(panic);
            }
        }
        true
    }

    /// Spawns what is left of the flight as a task.
    fn hand_over(&mut self) {
        // While the runtime shuts down there is no way to go on.
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
