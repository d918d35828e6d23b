//! Real redis-servers of a test's own, on free ports, without anything on disk. `STORE_SERVER`
//! names another one to test against.

use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::{until, within};

/// One server. Killed on drop.
#[derive(Debug)]
pub(crate) struct Redis {
    pub(crate) port: u16,
    arguments: Vec<String>,
    child: Child,
    folder: TempDir,
}

impl Redis {
    /// A single server.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A server with further settings, as on its command line.
    pub(crate) async fn start_with(settings: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), free_port().await, settings).await
    }

    /// The same on this port, with files in `folder`.
    pub(crate) async fn start_in(folder: TempDir, port: u16, settings: &[&str]) -> Self {
        let mut arguments: Vec<String> = Vec::new();
        if !settings.contains(&"--port") {
            arguments.extend(["--port".into(), port.to_string()]);
        }
        let usual = "--bind 127.0.0.1 --save '' --appendonly no --repl-diskless-sync-delay 0";
        arguments.extend(usual.split(' ').map(|word| word.trim_matches('\'').to_owned()));
        if !*IS_6 {
            arguments.extend(["--enable-debug-command".into(), "yes".into()]);
        }
        arguments.extend(settings.iter().map(ToString::to_string));
        let child = spawn(&arguments, folder.path());
        let started = Self {
            port,
            arguments,
            child,
            folder,
        };
        started.listens().await;
        started
    }

    /// A replica that has all that `master` has, so far.
    pub(crate) async fn replica_of(master: &Self) -> Self {
        let replica = Self::start_with(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
        let synchronized = async || {
            let info: String = replica.ask(&["INFO", "replication"]).await.ok()?;
            info.contains("master_link_status:up").then_some(())
        };
        until("the replica to catch up", synchronized).await;
        replica
    }

    /// Three Sentinels that watch `master` as `main` and replace it half a second after it is gone.
    pub(crate) async fn sentinels(master: &Self) -> Vec<Self> {
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            let (folder, port) = (tempfile::tempdir().unwrap(), free_port().await);
            let file = folder.path().join("sentinel.conf");
            let text = format!(
                "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {} 2\n\
                 sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n",
                master.port
            );
            std::fs::write(&file, text).unwrap();
            let arguments = vec![file.to_str().unwrap().to_owned(), "--sentinel".into()];
            let child = spawn(&arguments, folder.path());
            let sentinel = Self {
                port,
                arguments,
                child,
                folder,
            };
            sentinel.listens().await;
            sentinels.push(sentinel);
        }
        for sentinel in &sentinels {
            let met = async || {
                let answer: Result<String, _> = sentinel.ask(&["SENTINEL", "CKQUORUM", "main"]).await;
                let all = answer.ok()?.starts_with("OK 3 usable");
                let known: Vec<Vec<String>> = sentinel.ask(&["SENTINEL", "REPLICAS", "main"]).await.ok()?;
                (all && !known.is_empty()).then_some(())
            };
            until("the Sentinels to meet", met).await;
        }
        sentinels
    }

    /// A cluster of three masters.
    pub(crate) async fn cluster() -> Vec<Self> {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let mut settings = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
            // By default the bus has the port 10,000 further up, which need not be free.
            let bus = free_port().await.to_string();
            if !*IS_6 {
                settings.extend(["--cluster-port", &bus]);
            }
            nodes.push(Self::start_with(&settings).await);
        }
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port));
        let mut create = Command::new("redis-cli");
        create
            .args(["--cluster", "create"])
            .args(addresses)
            .arg("--cluster-yes");
        let made = within("the cluster", create.stdout(Stdio::null()).status()).await;
        assert!(made.unwrap().success());
        for node in &nodes {
            let joined = async || {
                let info: String = node.ask(&["CLUSTER", "INFO"]).await.ok()?;
                info.contains("cluster_state:ok").then_some(())
            };
            until("the cluster to be complete", joined).await;
        }
        nodes
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// kill -9.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// After [`Redis::kill`]: the same address, and nothing remembered.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.arguments, self.folder.path());
        self.listens().await;
    }

    /// The server stands still, its connections open, until [`Redis::goes_on`].
    pub(crate) async fn stands_still(&self) {
        self.signal("-STOP").await;
        let stat = format!("/proc/{}/stat", self.child.id().unwrap());
        let is_stopped = async || {
            let stat = std::fs::read_to_string(&stat).unwrap();
            stat.contains(") T ").then_some(())
        };
        until("the server to stand still", is_stopped).await;
    }

    /// After [`Redis::stands_still`].
    pub(crate) async fn goes_on(&self) {
        self.signal("-CONT").await;
    }

    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .await
                .unwrap()
                .success()
        );
    }

    /// Everything that was written, with `--appendonly yes`: by file.
    pub(crate) fn written(&self) -> Vec<(String, Vec<u8>)> {
        // Redis 6 has one file instead of the folder.
        let [folder, file] = ["appendonlydir", "appendonly.aof"].map(|name| self.folder().join(name));
        let files = std::fs::read_dir(folder).map(|entries| entries.map(|entry| entry.unwrap().path()).collect());
        let files: Vec<_> = files.unwrap_or_else(|_| vec![file]);
        let read = |path: std::path::PathBuf| (path.display().to_string(), std::fs::read(path).unwrap());
        files.into_iter().map(read).collect()
    }

    /// Runs a command of which only success is of interest.
    pub(crate) async fn command(&self, words: &[&str]) {
        let _value: redis::Value = self.ask(words).await.unwrap();
    }

    /// Runs a command and returns its answer.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    async fn listens(&self) {
        let address = ("127.0.0.1", self.port);
        let look = async || tokio::net::TcpStream::connect(address).await.ok();
        until("redis-server to listen", look).await;
    }
}

/// Whether the server is Redis 6, which lacks switches of later ones for what it does or allows by
/// itself.
static IS_6: LazyLock<bool> = LazyLock::new(|| {
    let said = std::process::Command::new(program()).arg("--version").output();
    said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(" v=6."))
});

fn program() -> OsString {
    std::env::var_os("STORE_SERVER").unwrap_or_else(|| "redis-server".into())
}

fn spawn(arguments: &[String], folder: &Path) -> Child {
    Command::new(program())
        .args(arguments)
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("these tests need redis-server: apt-get install redis-server")
}

/// A port that nobody listens on now, and that no other test will be given: below those that the
/// system hands out for port 0, or a server of another test could take it before the store does.
pub(crate) async fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = 10_000 + (first + GIVEN.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}

/// How long a store of these tests may take to answer: a busy machine is slow.
pub(crate) const ANSWER: Duration = Duration::from_secs(2);
