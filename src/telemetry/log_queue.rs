//! The queue between who logs and stderr. A thread of its own writes, so that a reader of stderr
//! who stops (a hanging log driver, a pager) stops nobody who logs: then lines are lost, and counted
//! in the log, as are those that cannot be written (a full disk of logs). The order of lines stays.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use memchr::memchr_iter;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// The most bytes that wait to be written, some thousand lines; as many may be under way.
const MOST: usize = 512 * 1024;

/// Of these, as many are for warnings and errors alone: a flood of other lines does not hide them.
const FOR_WARNINGS: usize = MOST / 4;

/// A buffer that was needed once does not stay larger than this.
const KEPT: usize = 16 * 1024;

/// How long it takes until a non-blocking stderr that had no room is tried again.
const RETRY: Duration = Duration::from_millis(10);

/// Writes that so many lines were lost, in the format of the log.
pub(super) type Notice = fn(u64) -> String;

/// Lines on their way to stderr. Clones share the lines.
#[derive(Clone, Debug)]
pub(super) struct LogQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write.
    filled: Condvar,
    /// Notified when all that was taken has been written.
    written: Condvar,
    notice: Notice,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    text: Vec<u8>,
    /// The lines that were lost after those.
    lost: u64,
    /// Counts the times that the writer took the text, and that it had written it.
    taken: u64,
    done: u64,
}

impl LogQueue {
    /// A queue before `sink`.
    ///
    /// # Errors
    ///
    /// When the system allows no further thread.
    pub(super) fn start(sink: impl Write + Send + 'static, notice: Notice) -> io::Result<Self> {
        let queue = Self(Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Condvar::new(),
            notice,
        }));
        let shared = Arc::clone(&queue.0);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.write_to(sink))?;
        Ok(queue)
    }

    /// Adds a line, unless too many wait.
    pub(super) fn push(&self, line: &[u8], is_warning: bool) {
        let mut state = self.0.state();
        let room = if is_warning { MOST } else { MOST - FOR_WARNINGS };
        if state.text.len() + line.len() > room {
            state.lost += 1;
        } else {
            self.0.tell_lost(&mut state);
            state.text.extend_from_slice(line);
        }
        drop(state);
        self.0.filled.notify_one();
    }

    /// Waits until what has been added is written, but no longer than this.
    pub(super) fn flush(&self, most: Duration) {
        let state = self.0.state();
        // What waits will be taken next; what was taken may still be under way.
        let until = state.taken + u64::from(!state.text.is_empty() || state.lost > 0);
        let is_under_way = |state: &mut State| state.done < until;
        // It is given up when nobody reads.
        drop(self.0.written.wait_timeout_while(state, most, is_under_way));
    }
}

impl Shared {
    /// The state. A change is complete before anything can panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says in the place of lost lines that they were lost.
    fn tell_lost(&self, state: &mut State) {
        let lost = std::mem::take(&mut state.lost);
        if lost > 0 {
            state.text.extend_from_slice((self.notice)(lost).as_bytes());
        }
    }

    /// Writes what is added, as long as the process lives.
    fn write_to(&self, sink: impl Write) {
        let mut output = Output {
            sink,
            lost: 0,
            is_cut: false,
        };
        let mut text = Vec::new();
        loop {
            let is_idle = |state: &mut State| state.text.is_empty() && state.lost == 0;
            let state = self.filled.wait_while(self.state(), is_idle);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            self.tell_lost(&mut state);
            std::mem::swap(&mut state.text, &mut text);
            state.taken += 1;
            drop(state);
            output.write(&text, self.notice);
            text.clear();
            text.shrink_to(KEPT);
            self.state().done += 1;
            self.written.notify_all();
        }
    }
}

/// Where lines are written, and what it did not take.
struct Output<W> {
    sink: W,
    /// The lines that were lost since it last took some.
    lost: u64,
    /// Whether the last line that it took has no end.
    is_cut: bool,
}

impl<W: Write> Output<W> {
    /// Writes whole lines, and before them how many were lost. What fails is not tried again.
    fn write(&mut self, lines: &[u8], notice: Notice) {
        if self.lost > 0 {
            let end = if self.is_cut { "\n" } else { "" };
            let told = format!("{end}{}", notice(self.lost));
            if !self.take(told.as_bytes()).is_empty() {
                self.lost += count(lines);
                return;
            }
        }
        self.lost = count(self.take(lines));
    }

    /// Writes as much as can be written, and returns the rest.
    fn take<'a>(&mut self, text: &'a [u8]) -> &'a [u8] {
        let mut rest = text;
        while !rest.is_empty() {
            match self.sink.write(rest) {
                Ok(0) => break,
                Ok(taken) => {
                    self.is_cut = !rest[..taken].ends_with(b"\n");
                    rest = &rest[taken..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that has the same stderr may have made it non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(RETRY),
                Err(_) => break,
            }
        }
        rest
    }
}

/// How many lines end in the text.
fn count(text: &[u8]) -> u64 {
    memchr_iter(b'\n', text).count() as u64
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            queue: self,
            is_warning: false,
        }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line<'a> {
        Line {
            queue: self,
            is_warning: *event.level() <= Level::WARN,
        }
    }
}

/// Adds each line that it is given.
#[derive(Debug)]
pub(super) struct Line<'a> {
    queue: &'a LogQueue,
    is_warning: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(line, self.is_warning);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Each write waits until the test takes it.
    struct Reader(SyncSender<Vec<u8>>);

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.send(text.to_vec()).map_err(io::Error::other)?;
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LONG: Duration = Duration::from_mins(1);

    fn queue() -> (LogQueue, Receiver<Vec<u8>>) {
        let (sender, reader) = sync_channel(0);
        let queue = LogQueue::start(Reader(sender), |lost| format!("{lost} lost\n")).unwrap();
        (queue, reader)
    }

    fn read(reader: &Receiver<Vec<u8>>) -> String {
        String::from_utf8(reader.recv_timeout(LONG).unwrap()).unwrap()
    }

    #[test]
    fn a_reader_who_stops_stops_nobody_and_learns_how_many_lines_were_lost() {
        let (queue, reader) = queue();
        queue.push(b"first\n", false);
        // It is under way, and nobody reads it.
        while queue.0.state().taken == 0 {
            thread::yield_now();
        }
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..1000 {
            queue.push(line.as_bytes(), false);
        }
        queue.push(b"a warning\n", true);
        queue.push(line.as_bytes(), false);
        queue.flush(Duration::ZERO);
        assert_eq!(read(&reader), "first\n");
        let fits = (MOST - FOR_WARNINGS) / 1024;
        assert_eq!(
            read(&reader),
            format!("{}{} lost\na warning\n1 lost\n", line.repeat(fits), 1000 - fits)
        );
        queue.push(b"last\n", false);
        assert_eq!(read(&reader), "last\n");
    }

    #[test]
    fn a_line_that_is_too_long_is_told_at_once() {
        let (queue, reader) = queue();
        queue.push(b"first\n", false);
        assert_eq!(read(&reader), "first\n");
        // From here on the thread that writes has to be woken.
        queue.flush(LONG);
        queue.push("x".repeat(MOST).as_bytes(), false);
        assert_eq!(read(&reader), "1 lost\n");
    }

    /// Answers as told, then takes everything.
    struct Disk {
        answers: std::vec::IntoIter<Result<usize, io::ErrorKind>>,
        taken: SyncSender<Vec<u8>>,
    }

    impl Write for Disk {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let taken = self.answers.next().unwrap_or(Ok(text.len()))?;
            self.taken.send(text[..taken].to_vec()).map_err(io::Error::other)?;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is taken of these lines, each of which is written before the next is added.
    fn taken(answers: Vec<Result<usize, io::ErrorKind>>, lines: &[&str]) -> String {
        let (sender, reader) = sync_channel(10);
        let disk = Disk {
            answers: answers.into_iter(),
            taken: sender,
        };
        let queue = LogQueue::start(disk, |lost| format!("{lost} lost\n")).unwrap();
        for line in lines {
            queue.push(line.as_bytes(), false);
            queue.flush(LONG);
        }
        String::from_utf8(reader.try_iter().flatten().collect()).unwrap()
    }

    #[test]
    fn lines_that_a_full_disk_did_not_take_are_counted_and_a_cut_one_spoils_no_other() {
        let full = Err(io::ErrorKind::StorageFull);
        // The first batch is cut in its second line; then not even the notice has room.
        let text = taken(
            vec![Ok(8), full, full],
            &["first\nsecond\nthird\n", "next\n", "last\n", "more\n"],
        );
        assert_eq!(text, "first\nse\n3 lost\nlast\nmore\n");
        let text = taken(vec![full], &["first\n", "last\n"]);
        assert_eq!(text, "1 lost\nlast\n");
    }

    #[test]
    fn a_stderr_that_does_not_block_gets_everything() {
        let later = Err(io::ErrorKind::WouldBlock);
        assert_eq!(
            taken(vec![later, Ok(3), later], &["first\nsecond\n"]),
            "first\nsecond\n"
        );
    }

    #[test]
    fn what_was_logged_is_written_when_a_flush_ends() {
        let (sender, reader) = sync_channel(10);
        let queue = LogQueue::start(Reader(sender), |_| String::new()).unwrap();
        for n in 0..3 {
            queue.push(format!("{n}\n").as_bytes(), false);
        }
        queue.flush(LONG);
        let text: Vec<u8> = reader.try_iter().flatten().collect();
        assert_eq!(text, b"0\n1\n2\n");
        queue.flush(LONG);
    }
}
