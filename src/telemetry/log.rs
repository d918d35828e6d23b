//! Log lines on stderr: JSON for machines, text for people.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use super::json_line::{self, JsonLine};
use super::log_queue::{LogQueue, Notice};
use super::named_enum;

named_enum! {
    /// The format of log lines.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub enum Format, as_str {
        /// Text when stderr is a terminal, otherwise JSON for a log collector.
        #[default]
        Auto = "auto",
        /// One JSON object per line.
        Json = "json",
        /// One readable line.
        Text = "text",
    }
}

/// An error and its causes, outermost first.
pub fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        // Some errors repeat their cause in their own text.
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether a character controls how others are shown: control characters, line and paragraph
/// separators, and the marks of Unicode's bidirectional algorithm (UAX #9, section 2). What comes
/// from outside is shown without them.
pub fn steers(c: char) -> bool {
    let is_bidi = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_bidi || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operator's filter is not a list of directives such as `info,defender_gateway=debug`.
    #[error("not a log filter: {filter:?}")]
    Filter {
        /// The text that was given.
        filter: String,
        source: ParseError,
    },
    /// The system allows no thread that writes the lines.
    #[error("log lines cannot be written")]
    Thread(#[from] io::Error),
    /// The process has a logger already, which stays in use.
    #[error("logging is already set up")]
    Installed,
    /// The logger that the handle belongs to is gone.
    #[error("the logger is gone")]
    Gone,
}

/// Changes the filter of the running process. Clones change the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    filter: reload::Handle<Targets, Registry>,
    filters: Arc<Mutex<Filters>>,
}

/// The filters: the configured one and the temporary one.
#[derive(Debug)]
struct Filters {
    configured: String,
    volume: Volume,
}

/// A temporary log level of this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Volume {
    AsConfigured,
    Debug,
    Trace,
}

impl Filters {
    fn filter(&self) -> String {
        match self.volume {
            Volume::AsConfigured => self.configured.clone(),
            Volume::Debug => format!("{},{PROGRAM}=debug", self.configured),
            Volume::Trace => format!("{},{PROGRAM}=trace", self.configured),
        }
    }
}

/// The target that all events of this program begin with.
const PROGRAM: &str = "defender_gateway";

impl Handle {
    /// Replaces the configured filter, from the next event on. On an error the old one stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), Error> {
        // A filter that is invalid by itself must not become valid by what is added.
        parse(filter)?;
        self.change(|filters| filter.clone_into(&mut filters.configured))
            .map(drop)
    }

    /// Logs this program one level more verbosely: first `debug`, then `trace`, which a release does
    /// not have. Returns the filter in use.
    pub fn louder(&self) -> Result<String, Error> {
        self.change(|filters| {
            filters.volume = match filters.volume {
                Volume::AsConfigured => Volume::Debug,
                Volume::Debug | Volume::Trace => Volume::Trace,
            };
        })
    }

    /// Returns to the configured filter after [`Handle::louder`]. Returns the filter in use.
    pub fn as_configured(&self) -> Result<String, Error> {
        self.change(|filters| filters.volume = Volume::AsConfigured)
    }

    fn change(&self, change: impl FnOnce(&mut Filters)) -> Result<String, Error> {
        // Every change is complete before anything can panic.
        let mut filters = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut filters);
        let filter = filters.filter();
        self.filter.reload(parse(&filter)?).map_err(|_| Error::Gone)?;
        Ok(filter)
    }
}

/// The lines of this process on their way to stderr, once it logs.
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// How long the end of the process waits for a reader of stderr.
const FLUSH: Duration = Duration::from_secs(1);

/// Waits until what has been logged is written. It gives up after a second without a reader.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(FLUSH);
    }
}

/// Whether [`say`] writes JSON.
static SAYS_JSON: AtomicBool = AtomicBool::new(false);

/// Has [`say`] write JSON from now on, so that nothing else is among the lines of a log in JSON.
pub fn say_in_json() {
    SAYS_JSON.store(true, Ordering::Relaxed);
}

/// Writes to stderr what no filter may suppress, after the lines that were logged before: as it is,
/// or each of its lines as one of the log.
pub fn say(level: tracing::Level, text: &str) {
    if SAYS_JSON.load(Ordering::Relaxed) {
        text.lines()
            .for_each(|line| write(&json_line::written(level.as_str(), line)));
    } else {
        write(text);
    }
}

fn write(line: &str) {
    let line = format!("{line}\n");
    match QUEUE.get() {
        Some(queue) => queue.push(line.as_bytes(), true),
        // Nobody is left to be told when stderr is closed.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// Starts logging to stderr for the whole process. A thread writes the lines; see [`flush`].
///
/// `filter` contains tracing directives (`info`, `warn,defender_gateway=debug`). Never panics: a
/// second call fails with [`Error::Installed`] and changes nothing.
pub fn init(filter: &str, format: Format) -> Result<Handle, Error> {
    let terminal = io::stderr().is_terminal();
    let configured = filter.to_owned();
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    if QUEUE.get().is_some() {
        return Err(Error::Installed);
    }
    let shape = Shape::choose(format, terminal);
    let queue = LogQueue::start(io::stderr(), shape.notice())?;
    let lines = lines(BoxMakeWriter::new(queue.clone()), shape);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|_| Error::Installed)?;
    // Only one call gets here.
    let _ = QUEUE.set(queue);
    let filters = Filters {
        configured,
        volume: Volume::AsConfigured,
    };
    Ok(Handle {
        filter: handle,
        filters: Arc::new(Mutex::new(filters)),
    })
}

fn parse(filter: &str) -> Result<Targets, Error> {
    filter.parse().map_err(|source| Error::Filter {
        filter: filter.to_owned(),
        source,
    })
}

/// The layer that writes. The request's span is shown (it contains the request id); the spans
/// around it are not.
fn lines<S>(writer: BoxMakeWriter, shape: Shape) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a> + Send + Sync,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match shape {
        Shape::Json => layer.fmt_fields(JsonFields::new()).event_format(JsonLine).boxed(),
        Shape::Colourful => layer.with_ansi(true).boxed(),
        Shape::Plain => layer.with_ansi(false).boxed(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Json,
    Colourful,
    Plain,
}

impl Shape {
    /// Colours only on a terminal; in a file they would be escape codes.
    fn choose(format: Format, terminal: bool) -> Self {
        match (format, terminal) {
            (Format::Json, _) | (Format::Auto, false) => Self::Json,
            (Format::Auto | Format::Text, true) => Self::Colourful,
            (Format::Text, false) => Self::Plain,
        }
    }

    /// The line that stands where lines were lost.
    fn notice(self) -> Notice {
        match self {
            Self::Json => |lost| json_line::written("WARN", &lost_lines(lost)) + "\n",
            Self::Colourful | Self::Plain => {
                |lost| format!("{}  WARN {PROGRAM}: {}\n", json_line::now(), lost_lines(lost))
            }
        }
    }
}

fn lost_lines(lost: u64) -> String {
    format!("{lost} log lines were lost: stderr did not take them")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(shape: Shape) -> String {
        let memory = Memory::default();
        let sink = memory.clone();
        let lines = lines(BoxMakeWriter::new(move || sink.clone()), shape);
        let subscriber = tracing_subscriber::registry().with(parse("info").unwrap()).with(lines);
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("request", request_id = "abc").entered();
            tracing::warn!(status = 502, "no region answered");
            tracing::error!(
                message = "why",
                level = 7,
                target = "where",
                timestamp = "when",
                span = true,
                "twice"
            );
            tracing::debug!("not shown");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_names_its_request() {
        let text = written(Shape::Json);
        let line: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["message"], "no region answered");
        assert_eq!(line["status"], 502);
        assert_eq!(line["span"]["request_id"], "abc");
    }

    #[test]
    fn no_key_of_a_json_line_occurs_twice() {
        let text = written(Shape::Json);
        let line = text.lines().nth(1).unwrap();
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        assert_eq!(value["message"], "twice");
        assert_eq!(value["message_2"], "why");
        assert_eq!((&value["level"], &value["level_2"]), (&"ERROR".into(), &7.into()));
        assert_eq!(value["span_2"]["request_id"], "abc", "{line}");
        for name in value.keys() {
            assert_eq!(line.matches(&format!("\"{name}\":")).count(), 1, "{name} in {line}");
        }
    }

    #[test]
    fn a_text_line_is_plain_outside_a_terminal() {
        let text = written(Shape::Plain);
        assert!(
            text.contains("no region answered") && text.contains("request_id=\"abc\""),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn auto_is_text_only_on_a_terminal() {
        assert_eq!(Shape::choose(Format::Auto, true), Shape::Colourful);
        assert_eq!(Shape::choose(Format::Auto, false), Shape::Json);
    }

    #[test]
    fn a_second_start_fails_without_harm_and_a_bad_filter_is_named() {
        let first = init("off", Format::Text);
        assert!(matches!(init("off", Format::Json), Err(Error::Installed)));
        let error = init("defender=loud=x", Format::Json).unwrap_err();
        assert!(error.to_string().contains("defender=loud=x"), "{error}");
        if let Ok(handle) = first {
            assert!(matches!(handle.set_filter("a=b=c"), Err(Error::Filter { .. })));
            handle.set_filter("off").unwrap();
            assert_eq!(handle.louder().unwrap(), "off,defender_gateway=debug");
            assert_eq!(handle.louder().unwrap(), "off,defender_gateway=trace");
            assert!(handle.set_filter("a=b=c").is_err());
            handle.set_filter("warn").unwrap();
            assert_eq!(handle.louder().unwrap(), "warn,defender_gateway=trace");
            handle.set_filter("off").unwrap();
            assert_eq!(handle.as_configured().unwrap(), "off");
        }
    }
}
