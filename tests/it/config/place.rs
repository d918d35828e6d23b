//! The rules about addresses: listeners, regions, sign-in, clouds.

use super::{assert_one, resolved};

#[test]
fn other_machines_are_let_in_only_on_purpose() {
    assert_one(
        "[server]\nlisten = [\"127.0.0.1:1\", \"0.0.0.0:2\"]",
        &[],
        "g.toml:2:26: server.listen[1]: http://0.0.0.0:2 can be reached by other machines",
        "server.allow_non_loopback = true",
    );
    let open = resolved("[server]\nlisten = [\"0.0.0.0:2\"]\nallow_non_loopback = true", &[]);
    assert!(!open.server.listen[0].is_local());
}

#[test]
fn addresses_that_collide_are_refused() {
    assert_one(
        "[server]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]",
        &[],
        "g.toml:2:26: server.listen[1]: ",
        "cannot be bound",
    );
    assert_one("[server]\nlisten = []", &[], "g.toml:2:10: server.listen: is empty", "");
    assert_one(
        "[server]\nlisten = [\"127.0.0.1:9901\"]\n[admin]\nlisten = \"0.0.0.0:9901\"",
        &[],
        "g.toml:4:10: admin.listen: http://0.0.0.0:9901 cannot be bound: server.listen has http://127.0.0.1:9901",
        "",
    );
    assert_one(
        "[admin]\nlisten = \"127.0.0.1:8080\"",
        &[],
        "g.toml:2:10: admin.listen: ",
        "cannot be bound",
    );
    let many: Vec<_> = (1..=17).map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    assert_one(
        &format!("[server]\nlisten = [{}]", many.join(",")),
        &[],
        "g.toml:2:10: server.listen: holds more than 16",
        "",
    );
}

#[test]
fn socket_paths_fit_the_kernel() {
    let fits = format!("unix:/{}", "x".repeat(106));
    resolved(&format!("[server]\nlisten = [\"{fits}\"]"), &[]);
    assert_one(
        &format!("[server]\nlisten = [\"{fits}x\"]"),
        &[],
        "g.toml:2:11: server.listen[0]: ",
        "the system allows 107",
    );
}

#[test]
fn hosts_are_names_without_a_port() {
    let text = "[server]\nhosts = [\"Gateway.Example\", \"10.0.0.1\", \"[::1]\", \"FD00::0:1\"]";
    let resolved = resolved(text, &[]);
    assert_eq!(
        resolved.server.hosts,
        ["gateway.example", "10.0.0.1", "[::1]", "[fd00::1]"]
    );
    assert_one(
        "[server]\nhosts = [\"a:80\"]",
        &[],
        "g.toml:2:10: server.hosts[0]: \"a:80\" is no host name",
        "without a port",
    );
    assert_one(
        "[server]\nhosts = [\"*.example\"]",
        &[],
        "g.toml:2:10: server.hosts[0]: \"*.example\" is no host name",
        "no wildcards",
    );
}

#[test]
fn a_token_is_never_sent_unencrypted() {
    assert_one(
        "[[defender.regions]]\nname = \"x\"\nurl = \"http://10.0.0.1\"",
        &[],
        "g.toml:3:7: defender.regions[0].url: the address would send a token unencrypted",
        "",
    );
    assert_one(
        "[credentials]\nauthority = \"http://idp.example\"",
        &[],
        "g.toml:2:13: credentials.authority: ",
        "unencrypted",
    );
    let text = "[[defender.regions]]\nname = \"x\"\nurl = \"http://127.0.0.1:9\"\n[credentials]\nauthority = \"http://[::1]:9\"";
    assert_eq!(
        resolved(text, &[]).defender.regions[0].url.as_str(),
        "http://127.0.0.1:9/"
    );
}

#[test]
fn regions_are_complete_named_and_different() {
    let two = "[[defender.regions]]\nname = \"a\"\nurl = \"https://a\"\n[[defender.regions]]\n";
    for (rest, begins) in [
        (
            "name = \"b\"\nurl = \"https://a/\"",
            "g.toml:4:1: defender.regions[1]: https://a/ is listed twice",
        ),
        ("name = \"b\"", "g.toml:4:1: defender.regions[1]: has no url"),
        ("url = \"https://b\"", "g.toml:4:1: defender.regions[1]: has no name"),
        (
            "name = \"B\"\nurl = \"https://b\"",
            "g.toml:5:8: defender.regions[1].name: \"B\" is no name",
        ),
        (
            "name = \"auto\"\nurl = \"https://b\"",
            "g.toml:5:8: defender.regions[1].name: \"auto\" means the nearest",
        ),
        (
            "name = \"b\"\nurl = \"https://b/api\"",
            "g.toml:6:7: defender.regions[1].url: the address holds a path",
        ),
        (
            "name = 1\nurl = \"https://b\"",
            "g.toml:5:8: defender.regions[1].name: is a number",
        ),
    ] {
        assert_one(&format!("{two}{rest}"), &[], begins, "");
    }
    assert_one(
        "",
        &[("DEFENDER_GATEWAY_DEFENDER_REGIONS", "eu")],
        "DEFENDER_GATEWAY_DEFENDER_REGIONS: ",
        "write NAME=URL",
    );
    let same_name = resolved(
        &format!("{two}name = \"a\"\nurl = \"https://b\""),
        &[("DEFENDER_GATEWAY_DEFENDER_REGION", "a")],
    );
    assert_eq!(same_name.defender.candidates().count(), 2);
}

#[test]
fn a_pin_names_a_region_that_exists() {
    assert_one(
        "[defender]\nregion = \"uae\"",
        &[],
        "g.toml:2:10: defender.region: \"uae\" is no region (did you mean ",
        "the regions are us, eu, uk, au, swa, ina, aea, global",
    );
    let eu = resolved("[defender]\nregion = \"eu\"", &[]).defender;
    let hosts: Vec<_> = eu.candidates().filter_map(|region| region.url.host_str()).collect();
    assert_eq!(
        hosts,
        ["eu.api.security.microsoft.com", "api-eu.securitycenter.microsoft.com"]
    );
}

#[test]
fn a_cloud_brings_its_hosts_authority_and_scope() {
    for (cloud, hosts, authority, scope) in [
        (
            "public",
            12,
            "https://login.microsoftonline.com/",
            "https://api.securitycenter.microsoft.com/.default",
        ),
        (
            "gcc",
            1,
            "https://login.microsoftonline.com/",
            "https://api-gcc.securitycenter.microsoft.us/.default",
        ),
        (
            "gcc-high",
            1,
            "https://login.microsoftonline.us/",
            "https://api-gov.securitycenter.microsoft.us/.default",
        ),
        (
            "dod",
            1,
            "https://login.microsoftonline.us/",
            "https://api-gov.securitycenter.microsoft.us/.default",
        ),
    ] {
        let resolved = resolved(&format!("[defender]\ncloud = \"{cloud}\""), &[]);
        assert_eq!(resolved.defender.candidates().count(), hosts);
        assert_eq!(resolved.credentials.authority.as_str(), authority);
        assert_eq!(resolved.credentials.scope, scope);
    }
}

#[test]
fn clouds_are_not_mixed() {
    let high = "[defender]\ncloud = \"gcc-high\"\n";
    for (rest, begins) in [
        (
            "[credentials]\nauthority = \"https://login.microsoftonline.com\"",
            "g.toml:4:13: credentials.authority: ",
        ),
        (
            "[credentials]\nscope = \"https://api.securitycenter.microsoft.com/.default\"",
            "g.toml:4:9: credentials.scope: ",
        ),
        (
            "[[defender.regions]]\nname = \"eu\"\nurl = \"https://eu.api.security.microsoft.com\"",
            "g.toml:5:7: defender.regions[0].url: ",
        ),
    ] {
        assert_one(
            &format!("{high}{rest}"),
            &[],
            begins,
            "but defender.cloud is \"gcc-high\"",
        );
    }
    assert_one(
        "",
        &[("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us/")],
        "AZURE_AUTHORITY_HOST: credentials.authority: the value signs in to the cloud \"gcc-high\" or \"dod\", but defender.cloud is \"public\"",
        "",
    );
    // Hosts of nobody in particular fit: a simulator, a private sign-in server.
    resolved(
        &format!("{high}[credentials]\nauthority = \"https://idp.example\""),
        &[],
    );
}

#[test]
fn the_authority_of_the_webhook_is_taken_with_and_without_scheme_and_slash() {
    for text in [
        "https://login.microsoftonline.com/",
        "https://login.microsoftonline.com",
        "login.microsoftonline.com",
    ] {
        let resolved = resolved("", &[("AZURE_AUTHORITY_HOST", text)]);
        assert_eq!(
            resolved.credentials.authority.as_str(),
            "https://login.microsoftonline.com/"
        );
    }
}

#[test]
fn a_scope_is_one_resource_and_default() {
    for (scope, holds) in [
        (
            "https://api.securitycenter.microsoft.com",
            "does not end with /.default",
        ),
        ("https://a/.default https://b/.default", "more than one scope"),
        ("securitycenter/.default", "names no resource"),
    ] {
        assert_one(
            &format!("[credentials]\nscope = \"{scope}\""),
            &[],
            "g.toml:2:9: credentials.scope: ",
            holds,
        );
    }
}
