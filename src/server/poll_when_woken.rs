//! Waits beside something that is polled all the time.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

pin_project! {
    /// A future that is polled only when it was woken itself, not whenever its task is: timers and watches of a connection would
    /// otherwise cost something with every request on it.
    pub(super) struct PollWhenWoken<F> {
        #[pin]
        future: F,
        bell: Arc<WakeFlag>,
        inner: Waker,
        outer: Option<Waker>,
    }
}

struct WakeFlag {
    rung: AtomicBool,
    /// Kept when it is woken: a task that was woken for something else does not come by to put it back.
    task: Mutex<Option<Waker>>,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F> PollWhenWoken<F> {
    pub(super) fn new(future: F) -> Self {
        let bell = Arc::new(WakeFlag {
            // The first poll finds out what to wait for.
            rung: AtomicBool::new(true),
            task: Mutex::new(None),
        });
        Self {
            future,
            inner: Arc::clone(&bell).into(),
            bell,
            outer: None,
        }
    }
}

impl<F: Future> Future for PollWhenWoken<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let waker = context.waker();
        if !this.outer.as_ref().is_some_and(|outer| outer.will_wake(waker)) {
            *this.outer = Some(waker.clone());
            *this.bell.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
        }
        // Most polls end here.
        if !this.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Before the poll: what rings during it is not lost.
        this.bell.rung.store(false, Ordering::Release);
        this.future.poll(&mut Context::from_waker(this.inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use futures_util::FutureExt as _;

    #[tokio::test(start_paused = true)]
    async fn it_is_polled_when_woken_and_not_otherwise() {
        let polls = AtomicUsize::new(0);
        let timer = tokio::time::sleep(Duration::from_secs(5));
        let mut timer = Box::pin(timer);
        let counted = std::future::poll_fn(|context| {
            polls.fetch_add(1, Ordering::Relaxed);
            timer.poll_unpin(context)
        });
        let mut rarely = Box::pin(PollWhenWoken::new(counted));
        for _ in 0..10 {
            assert!((&mut rarely).now_or_never().is_none());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        rarely.await;
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[derive(Default)]
    struct Woken(std::sync::atomic::AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn it_is_woken_every_time() {
        let (send, mut receive) = tokio::sync::mpsc::unbounded_channel::<u32>();
        let seen = std::future::poll_fn(move |context| {
            // Not yet ready after the first message, as a future may be that was woken for nothing.
            while let Poll::Ready(message) = receive.poll_recv(context) {
                if message == Some(3) {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        });
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let mut rarely = std::pin::pin!(PollWhenWoken::new(seen));
        assert!(rarely.as_mut().poll(&mut context).is_pending());
        for message in 1..=3 {
            send.send(message).unwrap();
            assert_eq!(woken.0.load(Ordering::Relaxed), message, "each message is heard of");
            assert_eq!(rarely.as_mut().poll(&mut context).is_ready(), message == 3);
        }
    }
}
