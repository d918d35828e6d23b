//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::AdminAddress;
use crate::config::parse_duration;
use sim::Limit;
use sim::history::Casing;

/// A gateway in front of Microsoft Defender for Endpoint's scan history: it signs in, keeps to the
/// quota, shares and caches answers.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "defender-gateway",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done, 1 something you can mend (configuration, arguments, credentials), 2 anything else.\n\
                  First time? defender-gateway demo"
)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve callers until told to stop
    Run(ConfigFile),
    /// Report every mistake in the configuration, or say what would run; starts nothing
    Check(Check),
    /// Try the real thing: get a token, time the regions, make a small call, recommend settings
    Probe(Probe),
    /// Show the gateway at work on this machine: no configuration and no account needed
    Demo(Demo),
    /// Run the simulated upstream alone: sign-in and every region's Defender host
    Simulate(Simulate),
    /// Show the state of a running gateway
    Status(Status),
    /// Return once a gateway has started, for start scripts
    Wait(Wait),
    /// Say by the exit status whether a gateway is alive, for probes that run a command
    Healthcheck(Healthcheck),
    /// Print the `OpenAPI` description of the address that callers use
    #[command(about = "Print the OpenAPI description of the address that callers use")]
    Openapi,
    /// Print the configuration reference as Markdown
    #[command(hide = true)]
    Reference,
}

/// Where the configuration is.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ConfigFile {
    /// The file; without it `DEFENDER_GATEWAY_CONFIG`, the usual place and the defaults are tried
    /// in turn.
    #[arg(
        long,
        value_name = "FILE",
        help = "The configuration file [default: $DEFENDER_GATEWAY_CONFIG, else /etc/defender-gateway/gateway.toml if it exists, \
                else built-in defaults]"
    )]
    pub config: Option<PathBuf>,
}

/// `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Check {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Print every value in force and where it comes from (file and line, variable, default); no
    /// secrets
    #[arg(long)]
    pub show: bool,
    /// Print the JSON Schema of the configuration file instead of reading one
    #[arg(long, conflicts_with_all = ["show", "config"])]
    pub schema: bool,
}

/// `probe`.
#[derive(Clone, Debug, clap::Args)]
pub struct Probe {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigFile,
    /// Further calls, to learn how rows, pages and duplicates look; each counts against the quota
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub calls: u32,
    /// A scan definition of your tenant to ask for; name two or more to learn whether answers can
    /// be shared
    #[arg(long = "id", value_name = "ID")]
    pub ids: Vec<String>,
}

/// `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct Demo {
    /// End after the calls instead of serving on
    #[arg(long)]
    pub once: bool,
    /// Show so many gateways that share quota and answers through a redis-server, which must be
    /// installed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=32))]
    pub replicas: Option<u32>,
}

/// `simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Simulate {
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,
    /// The limits to enforce: calls per window, separated by commas [default: the scenario's, else
    /// 100/1m,1500/1h]
    #[arg(long, value_name = "LIMITS", value_delimiter = ',')]
    pub limit: Option<Vec<Limit>>,
    /// The field names of scan history [default: the scenario's, else the service's own, which is
    /// camelCase]
    #[arg(long, value_name = "CASING", hide_possible_values = true, help = CASING_HELP)]
    pub casing: Option<Casing>,
    /// A certificate of the application (PEM or DER): what client assertions have to match; may be
    /// given again
    #[arg(long = "certificate", value_name = "FILE")]
    pub certificates: Vec<PathBuf>,
    /// Answer https as well, and write the certificate authority to trust to this file; it is a new
    /// one at each start
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// What to play: latency, errors and cuts per region
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Write a JSON line per call to this file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Where a running gateway is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct Admin {
    /// The gateway's admin address; without it, where the environment tells `run` to listen, else
    /// the default.
    #[arg(
        long,
        value_name = "ADDR",
        help = "The gateway's admin address, HOST:PORT or unix:/PATH [default: $DEFENDER_GATEWAY_ADMIN_LISTEN, else \
                127.0.0.1:9901]"
    )]
    pub admin: Option<AdminAddress>,
}

/// `status`.
#[derive(Clone, Debug, clap::Args)]
pub struct Status {
    /// The gateway.
    #[command(flatten)]
    pub gateway: Admin,
    /// Show it again and again, until `q` or Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// `wait`.
#[derive(Clone, Debug, clap::Args)]
pub struct Wait {
    /// The gateway.
    #[command(flatten)]
    pub gateway: Admin,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = max)]
    pub max: Duration,
}

/// `healthcheck`.
#[derive(Clone, Debug, clap::Args)]
pub struct Healthcheck {
    /// The gateway.
    #[command(flatten)]
    pub gateway: Admin,
    /// Ask whether it takes requests instead of whether it lives: not while it drains
    #[arg(long)]
    pub ready: bool,
}

const CASING_HELP: &str = "The field names of scan history: metadata (camelCase, the service's own) or documented [default: the \
                           scenario's, else metadata]";

/// A day is more than any start script should be held up.
fn max(text: &str) -> Result<Duration, String> {
    let max = parse_duration(text)?;
    (max <= Duration::from_hours(24))
        .then_some(max)
        .ok_or_else(|| "is longer than 24h".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_description_is_sound_and_help_can_be_shown() {
        let mut command = Args::command();
        command.clone().debug_assert();
        let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        assert_eq!(
            names,
            [
                "run",
                "check",
                "probe",
                "demo",
                "simulate",
                "status",
                "wait",
                "healthcheck",
                "openapi",
                "reference"
            ]
        );
        assert!(!command.render_long_help().to_string().contains("reference"));
        for sub in command.get_subcommands_mut() {
            assert!(!sub.render_long_help().to_string().is_empty());
        }
    }

    #[test]
    fn simulated_limits_are_a_list() {
        let args = Args::try_parse_from(["g", "simulate", "--limit", "100/1s,1500/60s"]).unwrap();
        let Command::Simulate(simulate) = args.command else {
            panic!("{args:?}")
        };
        let limits: Vec<_> = simulate.limit.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(limits, ["100/1s", "1500/1m"]);
        assert!(Args::try_parse_from(["g", "simulate", "--limit", "100"]).is_err());
    }

    #[test]
    fn waiting_needs_a_unit_and_an_end() {
        let parse = |max| Args::try_parse_from(["g", "wait", "--max", max]);
        let Command::Wait(wait) = parse("2m").unwrap().command else {
            panic!("no wait")
        };
        assert_eq!((wait.max, wait.gateway.admin), (Duration::from_mins(2), None));
        assert!(parse("30").unwrap_err().to_string().contains("30s"));
        assert!(parse("2d").unwrap_err().to_string().contains("longer than 24h"));
    }
}
