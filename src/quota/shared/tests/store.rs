//! The script in a redis-server whose time and identity are keys.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::Connection;
use tempfile::TempDir;

use crate::attempt::FlowDemand;
use crate::caller::{Name, Urgency};
use crate::quota::shared::messages::{self, SyncReply};
use crate::quota::shared::{Config, KEYS, Timing};
use crate::store::{self, Address};

/// A server that can be saved and loaded as a whole. Killed on drop.
pub(super) struct Store {
    connection: Connection,
    /// The script's digest.
    script: String,
    /// The digest of the script without its early end, when each step is taken by both.
    whole: Option<String>,
    keys: [String; KEYS],
    /// The time and the identity that the server has from the next command on.
    clock: [String; 2],
    /// Whether the server has them already.
    is_clock_set: bool,
    /// Whom the script has woken, as the server said it.
    woken: Vec<String>,
    child: Child,
    _folder: TempDir,
}

impl Drop for Store {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// So many requests of one caller wait, for as long as it takes.
pub(super) fn waiting(caller: &str, requests: usize) -> Vec<FlowDemand> {
    let flow = FlowDemand {
        urgency: Urgency::default(),
        caller: Name::new(caller),
        weight: 1,
        waiting: requests,
        deadlines: Vec::new(),
        returning: 0,
        kept: 0,
        dues: [].into(),
        asks_again: false,
        position: None,
    };
    if requests == 0 { Vec::new() } else { vec![flow] }
}

/// The server's time at the start.
const START: i64 = 1_790_000_000_000_000;

/// How the script wakes replicas, and what it does instead.
const PUBLISH: &str = "redis.call('PUBLISH', STATE .. ':' .. name, message)";
const SADD: &str = "redis.call('SADD', 'wakes', name .. ' ' .. message)";

/// A reply as a value, whose members have no order.
fn sorted(reply: &str) -> serde_json::Value {
    serde_json::from_str(reply).unwrap()
}

/// A script that asks keys for the time and the server's identity.
fn moved(source: &str) -> String {
    let clock = "(function() local at = tonumber(redis.call('GET', 'clock')) return { math.floor(at / 1000000), at % 1000000 } end)()";
    let moved = source.replace("redis.call('TIME')", clock).replace(
        "redis.call('INFO', 'server')",
        "('run_id:' .. redis.call('GET', 'run'))",
    );
    let asked = moved.matches("redis.call('GET', '").count();
    assert_eq!(asked, 2, "the script asks for time and server once");
    moved
}

impl Store {
    /// As [`moved`], for a script that is run by itself.
    pub(super) fn moved(source: &str) -> String {
        moved(source)
    }

    pub(super) fn start(keys: [String; KEYS], mistake: Option<(&str, &str)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let mut child = Command::new(std::env::var_os("STORE_SERVER").unwrap_or_else(|| "redis-server".into()))
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need redis-server: apt-get install redis-server");
        let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(log.any(|line| line.unwrap().contains("eady to accept connections")));
        let client = redis::Client::open(format!("redis+unix://{}", socket.display())).unwrap();
        let mut connection = client.get_connection().unwrap();
        let moved = moved(messages::SCRIPT).replace(PUBLISH, SADD);
        let moved = mistake.map_or(moved.clone(), |(right, wrong)| {
            assert!(moved.contains(right), "{right}");
            moved.replace(right, wrong)
        });
        let mut load = redis::cmd("SCRIPT");
        let script = load.arg("LOAD").arg(&moved).query(&mut connection).unwrap();
        Self {
            connection,
            script,
            whole: None,
            keys,
            clock: Default::default(),
            is_clock_set: true,
            woken: Vec::new(),
            child,
            _folder: folder,
        }
    }

    /// Runs a command of which only success is of interest.
    pub(super) fn command(&mut self, words: &[&str]) {
        self.ask::<redis::Value>(words);
    }

    pub(super) fn ask<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut asked = self.after_the_clock();
        asked.cmd(words[0]).arg(&words[1..]);
        let (answer,) = asked.query(&mut self.connection).unwrap();
        answer
    }

    /// What sets the server's clock, if it has to be, before the commands that follow it: a round
    /// trip for each of them would take most of these tests' time.
    fn after_the_clock(&mut self) -> redis::Pipeline {
        let mut commands = redis::pipe();
        if !std::mem::replace(&mut self.is_clock_set, true) {
            let [clock, run] = &self.clock;
            commands.cmd("MSET").arg(&["clock", clock, "run", run]).ignore();
        }
        commands
    }

    /// The time and identity of the server from now on.
    pub(super) fn set(&mut self, at: Duration, run: u32) {
        let clock = START + i64::try_from(at.as_micros()).unwrap();
        let clock = [clock.to_string(), run.to_string()];
        self.is_clock_set &= clock == self.clock;
        self.clock = clock;
    }

    /// From now on each step is taken twice from the same state: as it is, and without the early
    /// end of steps that have nothing to say. Both must answer the same and leave the same.
    pub(super) fn compare_with_whole_steps(&mut self) {
        const EARLY: &str = "if state and redis.call('GET', FORMAT)";
        let moved = moved(messages::SCRIPT).replace(PUBLISH, SADD);
        assert_eq!(moved.matches(EARLY).count(), 1);
        let whole = moved.replace(EARLY, "if false and redis.call('GET', FORMAT)");
        self.whole = Some(self.ask(&["SCRIPT", "LOAD", &whole]));
    }

    pub(super) fn run(&mut self, step: &str) -> SyncReply {
        let script = self.script.clone();
        let text = if let Some(whole) = self.whole.clone() {
            self.save("before");
            let text = self.take(&script, step);
            let left = self.content();
            self.load("before");
            let reply = self.take(&whole, step);
            assert_eq!(sorted(&text), sorted(&reply), "{step}");
            assert_eq!(left, self.content(), "{step}");
            text
        } else {
            self.take(&script, step)
        };
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn take(&mut self, script: &str, step: &str) -> String {
        let mut run = self.after_the_clock();
        run.cmd("EVALSHA").arg(script);
        run.arg(self.keys.len()).arg(&self.keys).arg(step);
        run.cmd("SPOP").arg("wakes").arg(1000);
        let (text, woken): (String, Vec<String>) = run.query(&mut self.connection).unwrap();
        let new: Vec<_> = woken.into_iter().filter(|wake| !self.woken.contains(wake)).collect();
        self.woken.extend(new);
        text
    }

    /// All that the store holds, in one order: packed tables have none.
    fn content(&mut self) -> String {
        const ALL: &str = "
            local function plain(value)
              if type(value) ~= 'table' then return type(value) == 'number' and string.format('%.17g', value) or tostring(value) end
              local keys, parts = {}, {}
              for key in pairs(value) do keys[#keys + 1] = key end
              table.sort(keys, function(one, other) return tostring(one) < tostring(other) end)
              for _, key in ipairs(keys) do parts[#parts + 1] = tostring(key) .. '=' .. plain(value[key]) end
              return '{' .. table.concat(parts, ' ') .. '}'
            end
            local found = {}
            for n, key in ipairs(KEYS) do
              local kind, of = redis.call('TYPE', key).ok, nil
              if kind == 'string' then of = redis.call('GET', key) end
              if n == 1 and of then of = plain(cmsgpack.unpack(of)) end
              if kind == 'zset' then of = plain(redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')) end
              if kind == 'set' then of = plain(redis.call('SMEMBERS', key)) end
              if kind == 'hash' then
                of = {}
                local all = redis.call('HGETALL', key)
                for i = 1, #all, 2 do of[all[i]] = cmsgpack.unpack(all[i + 1]) end
                of = plain(of)
              end
              found[n] = n .. ' ' .. kind .. ' ' .. (of or '')
            end
            return table.concat(found, ' | ')";
        let mut all = redis::cmd("EVAL");
        all.arg(ALL).arg(self.keys.len()).arg(&self.keys);
        all.query(&mut self.connection).unwrap()
    }

    /// Whom the script has woken since this was asked last, and when they are to look if that is
    /// not at once; `*` is everybody.
    pub(super) fn wakes(&mut self) -> Vec<(String, Option<f64>)> {
        let wakes = std::mem::take(&mut self.woken);
        let wake = |wake: &String| {
            let (name, message) = wake.split_once(' ').unwrap();
            (name.to_owned(), message.parse().ok())
        };
        wakes.iter().map(wake).collect()
    }

    /// One of the keys is gone.
    pub(super) fn evict(&mut self, key: usize) {
        let key = self.keys[key].clone();
        self.command(&["DEL", &key]);
    }

    pub(super) fn flush(&mut self) {
        let keys = self.keys.clone();
        let mut words = vec!["DEL"];
        words.extend(keys.iter().map(String::as_str));
        self.command(&words);
    }

    /// Remembers everything under `name`.
    pub(super) fn save(&mut self, name: &str) {
        self.copy("", &format!("{name} "));
    }

    /// Makes everything as it was when saved under `name`.
    pub(super) fn load(&mut self, name: &str) {
        self.copy(&format!("{name} "), "");
    }

    fn copy(&mut self, from: &str, to: &str) {
        const ALL: &str = "
            for _, key in ipairs(KEYS) do
              local from, to = ARGV[1] .. key, ARGV[2] .. key
              local lifetime, content = redis.call('PTTL', from), redis.call('DUMP', from)
              redis.call('DEL', to)
              if content then redis.call('RESTORE', to, math.max(lifetime, 0), content) end
            end";
        let mut copy = redis::cmd("EVAL");
        copy.arg(ALL).arg(self.keys.len()).arg(&self.keys).arg(from).arg(to);
        copy.query::<redis::Value>(&mut self.connection).unwrap();
    }
}

#[test]
fn keys_are_of_one_tenant_and_application_and_in_one_slot() {
    let store = store::Config::new(Address::parse("redis://h").unwrap(), Duration::from_millis(250));
    let config = |application| Config::new(store.clone(), Timing::new(Duration::ZERO), "p", "T-1", application);
    assert_eq!(config("A}x").keys()[0], "{p:t-1:a_x}:v2:state");
    assert_ne!(config("a").keys(), config("b").keys());
}
