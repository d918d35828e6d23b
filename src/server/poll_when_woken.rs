//! Polls a future only when it was woken.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

pin_project! {
    /// A future that is polled only when it was woken itself, not whenever its task is polled.
    /// Otherwise the timers and watches of a connection would cost something with every request on
    /// it.
    pub(super) struct PollWhenWoken<F> {
        #[pin]
        future: F,
        wake_flag: Arc<WakeFlag>,
        inner: Waker,
        outer: Option<Waker>,
    }
}

struct WakeFlag {
    is_set: AtomicBool,
    /// Kept after a wake-up, because a task that was woken for something else does not register it
    /// again.
    task: Mutex<Option<Waker>>,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.is_set.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<F> PollWhenWoken<F> {
    pub(super) fn new(future: F) -> Self {
        let wake_flag = Arc::new(WakeFlag {
            // The first poll registers for wake-ups.
            is_set: AtomicBool::new(true),
            task: Mutex::new(None),
        });
        Self {
            future,
            inner: Arc::clone(&wake_flag).into(),
            wake_flag,
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
            *this.wake_flag.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
        }
        // Most polls end here.
        if !this.wake_flag.is_set.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Cleared before the poll, so that no wake-up during it is lost.
        this.wake_flag.is_set.store(false, Ordering::Release);
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
            // Not ready after the first message, like a future that was woken for nothing.
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
