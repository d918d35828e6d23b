//! Generated definitions and scanners.

use std::time::Duration;

use serde_json::{Value, json};

use super::History;
use super::rows::{is_definition, of_definition, time};
use crate::rng::Rng;

/// The kinds of entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Definition,
    Agent,
}

impl History {
    /// The ids of the definitions that are listed.
    pub(super) fn definition_ids(&self, seed: u64) -> Vec<String> {
        let id = |n: usize| Rng::for_text(seed, &format!("definition {n}")).guid();
        (0..self.definitions).map(id).collect()
    }

    /// All entities of a kind, in the order of their list.
    pub(crate) fn entities(&self, kind: Kind, (seed, scans): (u64, u32)) -> Vec<Value> {
        match kind {
            Kind::Definition => {
                let ids = self.definition_ids(seed);
                ids.iter().map(|id| self.definition((seed, scans), id)).collect()
            }
            Kind::Agent => (0..self.agents).map(|n| agent(seed, scans, n)).collect(),
        }
    }

    /// One entity; definitions that are not listed have a history as well.
    pub(crate) fn entity(&self, kind: Kind, (seed, scans): (u64, u32), id: &str) -> Option<Value> {
        let mut listed = self.entities(kind, (seed, scans)).into_iter();
        let is_asked = |entity: &Value| {
            entity["id"]
                .as_str()
                .is_some_and(|known| known.eq_ignore_ascii_case(id))
        };
        let found = listed.find(is_asked);
        let id = id.to_ascii_lowercase();
        let is_unlisted = found.is_none() && kind == Kind::Definition && is_definition(&id);
        found.or_else(|| is_unlisted.then(|| self.definition((seed, scans), &id)))
    }

    fn definition(&self, (seed, scans): (u64, u32), id: &str) -> Value {
        let mut rng = Rng::for_text(seed, &format!("settings of {id}"));
        let agents = u64::try_from(self.agents.max(1)).unwrap_or(1);
        let scanner = agent(seed, scans, usize::try_from(rng.below(agents)).unwrap_or(0));
        let (a, b) = (rng.below(250) + 1, rng.below(250) + 1);
        let latest = of_definition(seed, scans, id).next();
        let authentication = json!({
            "@odata.type": "#microsoft.windowsDefenderATP.api.SnmpAuthParams",
            "type": "AuthPriv",
            "username": "simulated-user",
            "authProtocol": "SHA1",
            "authPassword": SECRET,
            "privProtocol": "AES",
            "privPassword": SECRET,
            "communityString": SECRET,
        });
        json!({
            "id": id,
            "orgId": org(seed),
            "scanType": "Network",
            "scanName": format!("Network {a}.{b}"),
            "createdBy": "admin@example.com",
            "isActive": true,
            "target": format!("10.{a}.{b}.1,10.{a}.{b}.2"),
            "intervalInHours": 4,
            "targetType": "Ip",
            "scanAuthenticationParams": if self.secrets { authentication } else { Value::Null },
            "scannerAgent": {
                "id": scanner["id"],
                "machineId": scanner["machineId"],
                "machineName": scanner["computerDnsName"],
                "lastSeen": scanner["lastSeen"],
                "assignedApplicationId": scanner["assignedApplicationId"],
                "scannerSoftwareVersion": scanner["scannerSoftwareVersion"],
                "lastCommandExecutionTimestamp": scanner["lastCommandExecutionTimestamp"],
                "mdeClientVersion": scanner["mdeClientVersion"],
            },
            "latestScan": {
                "status": latest.as_ref().map(|_| "Success"),
                "failureReason": null,
                "executionDateTime": latest.map(|session| time(session.ended)),
            },
            "advancedActiveConfiguration": null,
            "isTroubleshootMode": false,
        })
    }
}

/// A value that must never be found behind a gateway.
const SECRET: &str = "simulated~scan.password";

fn org(seed: u64) -> String {
    Rng::for_text(seed, "organisation").guid()
}

fn agent(seed: u64, scans: u32, n: usize) -> Value {
    let mut rng = Rng::for_text(seed, &format!("agent {n}"));
    let machine = rng.hex(40);
    let application = rng.guid();
    // It is seen again by each scan.
    let last_seen =
        jiff::Timestamp::constant(1_793_491_200, 0) + Duration::from_secs(60 * u64::from(scans) + rng.below(60));
    json!({
        "id": format!("{}_{machine}", org(seed)),
        "machineId": machine,
        "lastSeen": time(last_seen),
        "computerDnsName": format!("scanner-{n}.example.com"),
        "assignedApplicationId": application,
        "scannerSoftwareVersion": "7.1.1",
        "lastCommandExecutionTimestamp": time(last_seen),
        "mdeClientVersion": "10.8295.22621.1195",
    })
}
