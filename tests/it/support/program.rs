//! The real program as a child process.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use defender_gateway::testing::task::Tasks;

use super::{Caller, until, within};

/// A running child; killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
    folder: tempfile::TempDir,
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: by a signal.
    pub(crate) code: Option<i32>,
    /// The system wrote its memory down.
    pub(crate) dumped: bool,
    /// All that it wrote, to stdout and stderr.
    pub(crate) output: String,
}

impl Program {
    /// Starts the program with these arguments and nothing but these variables, in an empty folder.
    pub(crate) fn start<T: AsRef<str>>(arguments: &[T], variables: &[(String, String)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), arguments, variables)
    }

    /// Starts `run` with this configuration, and waits until it listens.
    pub(crate) async fn gateway(toml: &str, variables: &[(String, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, toml).unwrap();
        let program = Self::start_in(folder, &["run", "--config", file.to_str().unwrap()], variables);
        program.line("listening on ").await;
        program.line("admin on ").await;
        program
    }

    /// The same behind a few words of the shell, which set its limits. Does not wait.
    pub(crate) fn limited_gateway(limits: &str, toml: &str, variables: &[(String, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, toml).unwrap();
        let mut command = Command::new("sh");
        let script = format!("{limits}; exec \"$0\" \"$@\"");
        let program = env!("CARGO_BIN_EXE_defender-gateway");
        command.args(["-c", &script, program, "run", "--config", file.to_str().unwrap()]);
        Self::run(command, folder, variables)
    }

    fn start_in<T: AsRef<str>>(folder: tempfile::TempDir, arguments: &[T], variables: &[(String, String)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_defender-gateway"));
        command.args(arguments.iter().map(AsRef::as_ref));
        Self::run(command, folder, variables)
    }

    fn run(mut command: Command, folder: tempfile::TempDir, variables: &[(String, String)]) -> Self {
        let mut child = command
            .env_clear()
            .envs(variables.iter().cloned())
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = Arc::default();
        let tasks = Tasks::new();
        let readers = vec![
            tasks.spawn("stdout", collect(child.stdout.take().unwrap(), Arc::clone(&lines))),
            tasks.spawn("stderr", collect(child.stderr.take().unwrap(), Arc::clone(&lines))),
        ];
        Self {
            child,
            lines,
            readers,
            folder,
        }
    }

    /// The folder it runs in.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Its process.
    ///
    /// # Panics
    /// It has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// All that it has written so far.
    pub(crate) fn output(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// What stands behind `start` in the first line that starts so, or whose message does; waits
    /// for it.
    pub(crate) async fn line(&self, start: &str) -> String {
        let found = self.wait_for_line(start, |line| said(line).starts_with(start)).await;
        said(&found)[start.len()..].to_owned()
    }

    /// The first line that holds `part`; waits for it.
    pub(crate) async fn line_with(&self, part: &str) -> String {
        self.wait_for_line(part, |line| line.contains(part)).await
    }

    async fn wait_for_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let look = async || {
            let lines = self.lines.lock().unwrap();
            let found = lines.iter().find(|line| wanted(line)).cloned();
            assert!(found.is_some() || !self.is_silent(), "no line {what:?} in {lines:?}");
            found
        };
        until(what, look).await
    }

    /// Nothing more will be written.
    fn is_silent(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }

    /// A caller of the gateway.
    pub(crate) fn caller(&self) -> Caller {
        Caller::http1(&self.address("listening on "))
    }

    /// A client of the gateway's admin listener.
    pub(crate) fn admin(&self) -> Caller {
        Caller::http1(&self.address("admin on "))
    }

    fn address(&self, start: &str) -> String {
        let lines = self.lines.lock().unwrap();
        let found = lines
            .iter()
            .find_map(|line| said(line).strip_prefix(start).map(str::to_owned));
        found.unwrap_or_else(|| panic!("no {start:?} in {lines:?}"))
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) async fn signal(&self, name: &str) {
        let Some(pid) = self.child.id() else { return };
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(pid.to_string())
            .status()
            .await;
        assert!(sent.unwrap().success(), "kill -{name} {pid}");
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> Ended {
        let status: ExitStatus = within("the program's end", self.child.wait()).await.unwrap();
        for reader in &mut self.readers {
            within("the end of its output", reader).await.unwrap();
        }
        Ended {
            code: status.code(),
            dumped: status.core_dumped(),
            output: self.output(),
        }
    }
}

/// What a line says to people: itself, or its message where it is JSON.
fn said(line: &str) -> String {
    let json = serde_json::from_str::<serde_json::Value>(line).ok();
    let message = json.as_ref().and_then(|json| json["message"].as_str());
    message.unwrap_or(line).to_owned()
}

async fn collect(stream: impl AsyncRead + Unpin, lines: Arc<Mutex<Vec<String>>>) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    // Bytes, not text: a program that writes rubbish must not end the reading.
    while reader.read_until(b'\n', &mut bytes).await.is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        lines.lock().unwrap().push(line);
        bytes.clear();
    }
}
