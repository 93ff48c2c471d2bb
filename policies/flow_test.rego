package kairos.flow_test

import data.kairos.flow

staff := {"node": "ep-a", "name": "a", "role": "endpoint", "tags": ["staff"], "groups": ["dev"], "owner": "ann"}

server := {"node": "ep-b", "name": "b", "role": "endpoint", "tags": ["web"], "groups": [], "owner": "bob"}

attempt := {
	"point": "egress", "attachment": "", "interconnect": null, "app": null, "claims": {"heard": false, "app": null},
	"now": "2026-11-25T12:00:00Z", "week_minute": 3600, "vni": {"id": 1, "name": "office"},
	"device": staff, "peer": server,
	"src": {"ip": "10.7.0.2", "port": 40000}, "dst": {"ip": "10.7.0.3", "port": 443}, "proto": "tcp",
}

grant := {
	"id": "g", "reason": "", "vnis": [], "interconnect": "", "expires_at": "", "log": true, "apps": [], "effect": "allow", "require": {}, "windows": [],
	"from": ["tag:staff"], "to": ["tag:web"],
	"ports": [{"proto": "tcp", "first": 443, "last": 443}],
}

verdict(allow, deny, given) := decision if {
	decision := flow.decision with input as given with data.grants as {
		"allow": indexed(allow),
		"deny": indexed(deny),
		"networks": [name | some grant in array.concat(allow, deny); some name in array.concat(grant.from, grant.to); contains(name, "/")],
	}
}

# As kairos_cli/grants.py writes it.
indexed(grants) := {
	"list": grants,
	"from": {name: places |
		some grant in grants
		some name in grant.from
		places := [place | some place, other in grants; name in other.from]
	},
}

test_a_host_without_an_agent_is_named_by_what_it_is_attached_to if {
	attached := object.union(grant, {"from": ["external:gw-a"]})
	nobody := {"node": "", "tags": [], "groups": [], "owner": ""}
	there := object.union(attempt, {"device": nobody, "attachment": "gw-a"})
	verdict([attached], [], there).allow
	not verdict([attached], [], object.union(there, {"attachment": "gw-b"})).allow
	not verdict([attached], [], object.union(there, {"attachment": ""})).allow
	not verdict([object.union(grant, {"from": ["external:"]})], [], attempt).allow
}

test_the_first_grant_counts if {
	verdict([grant, object.union(grant, {"id": "h"})], [], attempt).rule == "grant:g"
	verdict([object.union(grant, {"id": "h"}), grant], [], attempt).rule == "grant:h"
}

test_nothing_is_deny if verdict([], [], attempt) == {"allow": false, "rule": "deny:default", "reason": "no grant allows this"}

test_a_grant_allows if verdict([grant], [], attempt).rule == "grant:g"

test_deny_wins if verdict([grant], [object.union(grant, {"id": "no"})], attempt).rule == "deny:no"

test_another_port_is_denied if not verdict([grant], [], object.union(attempt, {"dst": {"ip": "10.7.0.3", "port": 22}})).allow

test_another_protocol_is_denied if not verdict([grant], [], object.union(attempt, {"proto": "udp"})).allow

test_a_port_range if {
	ranged := object.union(grant, {"ports": [{"proto": "tcp", "first": 400, "last": 500}]})
	verdict([ranged], [], attempt).allow
}

test_any_protocol if verdict([object.union(grant, {"ports": [{"proto": "*", "first": 0, "last": 0}]})], [], attempt).allow

test_icmp_has_no_port if {
	ping := object.union(grant, {"ports": [{"proto": "icmp", "first": 0, "last": 65535}]})
	verdict([ping], [], object.union(attempt, {"proto": "icmp", "dst": {"ip": "10.7.0.3", "port": 8}})).allow
}

test_expired_grant if {
	not verdict([object.union(grant, {"expires_at": "2026-11-25T12:00:00Z"})], [], attempt).allow
	verdict([object.union(grant, {"expires_at": "2026-11-25T12:00:01Z"})], [], attempt).allow
}

test_vni if {
	verdict([object.union(grant, {"vnis": ["office"]})], [], attempt).allow
	not verdict([object.union(grant, {"vnis": ["lab"]})], [], attempt).allow
}

test_selectors if {
	every selector in [
		"*", "group:dev", "owner:ann",
		"node:ep-a", "10.7.0.0/24",
	] {
		verdict([object.union(grant, {"from": [selector]})], [], attempt).allow
	}
	every selector in [
		"group:ops", "owner:bob",
		"node:ep-b", "10.8.0.0/24",
	] {
		not verdict([object.union(grant, {"from": [selector]})], [], attempt).allow
	}
}

test_a_host_without_an_agent_has_no_tags if {
	not verdict([grant], [], object.union(attempt, {"peer": null})).allow
	verdict([object.union(grant, {"to": ["10.7.0.3/32"]})], [], object.union(attempt, {"peer": null})).allow
}

test_a_grant_says_until_when_and_whether_to_log if {
	ending := object.union(grant, {"expires_at": "2026-11-25T13:00:00Z", "log": false})
	decision := verdict([ending], [], attempt)
	decision.expires_at == "2026-11-25T13:00:00Z"
	decision.log == false
}

test_a_hole_in_the_input_is_deny_whatever_the_grants_say if {
	anything := object.union(grant, {
		"from": ["*"],
		"to": ["*"],
		"ports": [{"proto": "*", "first": 0, "last": 0}],
	})
	verdict([anything], [], attempt).allow
	every field in ["point", "app", "claims", "now", "week_minute", "vni", "device", "peer", "src", "dst", "proto"] {
		verdict([anything], [], object.remove(attempt, [field])).rule == "deny:malformed"
	}
	verdict([anything], [], object.union(attempt, {"dst": {"ip": "10.7.0.300", "port": 443}})).rule == "deny:malformed"
	verdict([anything], [], object.union(attempt, {"peer": {"tags": null}})).rule == "deny:malformed"
	verdict([anything], [], object.union(attempt, {"src": {"ip": "fd07::2", "port": 1}})).allow
}

curl := {"path": "/usr/bin/curl", "sha256": "aa", "uid": 1000, "unit": "web.service"}

netcat := {"path": "/usr/bin/nc", "sha256": "bb", "uid": 1000, "unit": ""}

test_an_app_is_asked_for_at_the_endpoint if {
	every named in [{"path": "/usr/bin/curl"}, {"sha256": "aa"}, {"unit": "web.service"}, {"path": "/usr/bin/curl", "uid": 1000}] {
		asking := object.union(grant, {"apps": [{"path": "/nowhere"}, named]})
		not verdict([asking], [], attempt).allow
		not verdict([asking], [], object.union(attempt, {"app": netcat})).allow
		verdict([asking], [], object.union(attempt, {"app": curl})).allow
	}
	another := object.union(grant, {"apps": [{"path": "/usr/bin/curl", "uid": 0}]})
	not verdict([another], [], object.union(attempt, {"app": curl})).allow
}

test_an_app_in_doubt_is_allowed_nothing_and_denied_everything if {
	doubtful := {"path": "", "sha256": "", "uid": 4294967295, "unit": "?"}
	every named in [{"path": "/usr/bin/nc"}, {"sha256": "bb"}, {"uid": 1000}, {"unit": "web.service"}, {"path": "/usr/bin/nc", "uid": 1000}] {
		asking := object.union(grant, {"apps": [named]})
		not verdict([asking], [], object.union(attempt, {"app": doubtful})).allow
		denying := object.union(grant, {"id": "no", "apps": [named], "effect": "deny"})
		not verdict([grant], [denying], object.union(attempt, {"app": doubtful})).allow
		arriving := object.union(attempt, {"point": "ingress", "claims": {"heard": true, "app": doubtful}})
		not verdict([grant], [denying], arriving).allow
	}
	no_netcat := object.union(grant, {"id": "no", "apps": [{"path": "/usr/bin/nc", "uid": 0}], "effect": "deny"})
	verdict([grant], [no_netcat], object.union(attempt, {"app": object.union(netcat, {"path": ""})})).allow
	no_unit := object.union(grant, {"id": "no", "apps": [{"unit": "web.service"}], "effect": "deny"})
	verdict([grant], [no_unit], object.union(attempt, {"app": netcat})).allow
	verdict([grant], [no_unit], object.union(attempt, {"app": null})).allow
}

test_an_app_that_is_only_claimed_is_none_at_the_endpoint if {
	asking := object.union(grant, {"apps": [{"path": "/usr/bin/curl"}]})
	not verdict([asking], [], object.union(attempt, {"claims": {"heard": true, "app": curl}})).allow
}

test_a_grant_may_require_posture if {
	strict := object.union(grant, {"require": {"disk_encrypted": true, "os": "debian"}})
	good := {"posture": {"disk_encrypted": true, "os": "debian", "kernel": "6"}}
	verdict([strict], [], object.union(attempt, good)).allow
	every posture in [{}, {"os": "debian"}, {"disk_encrypted": false, "os": "debian"}, {"disk_encrypted": "true", "os": "debian"}] {
		not verdict([strict], [], object.union(attempt, {"posture": posture})).allow
	}
	not verdict([strict], [], attempt).allow
}

test_only_the_gateway_asks_for_anothers_posture if {
	strict := object.union(grant, {"require": {"disk_encrypted": true}})
	arriving := object.union(attempt, {"point": "ingress", "posture": {}})
	verdict([strict], [], object.union(arriving, {"gateway": ""})).allow
	not verdict([strict], [], object.union(arriving, {"gateway": "gw-a"})).allow
}

test_the_gateway_hears_of_apps_or_does_not if {
	arriving := object.union(attempt, {"point": "ingress"})
	for_curl := object.union(grant, {"apps": [{"path": "/usr/bin/curl"}]})
	no_netcat := object.union(grant, {"id": "no", "apps": [{"path": "/usr/bin/nc"}], "effect": "deny"})
	verdict([for_curl], [], arriving).allow
	verdict([grant], [no_netcat], arriving).allow
	verdict([for_curl], [], object.union(arriving, {"claims": {"heard": true, "app": curl}})).allow
	not verdict([for_curl], [], object.union(arriving, {"claims": {"heard": true, "app": netcat}})).allow
	not verdict([for_curl], [], object.union(arriving, {"claims": {"heard": true, "app": null}})).allow
	not verdict([grant], [no_netcat], object.union(arriving, {"claims": {"heard": true, "app": netcat}})).allow
	not verdict([grant], [no_netcat], object.union(attempt, {"app": netcat})).allow
}

test_a_grant_holds_in_its_windows if {
	by_day := object.union(grant, {"windows": [[0, 60], [3600, 3660]]})
	verdict([by_day], [], attempt).minutes_left == 60
	verdict([by_day], [], object.union(attempt, {"week_minute": 3659})).minutes_left == 1
	not verdict([by_day], [], object.union(attempt, {"week_minute": 3660})).allow
	not verdict([by_day], [], object.union(attempt, {"week_minute": 3599})).allow
	verdict([grant], [], attempt).minutes_left == 0
}

test_a_deny_that_will_begin_is_waited_for if {
	night := object.union(grant, {"id": "night", "effect": "deny", "windows": [[100, 200]]})
	verdict([grant], [night], attempt).minutes_left == (10080 + 100) - 3600
	verdict([grant], [night], object.union(attempt, {"week_minute": 90})).minutes_left == 10
	verdict([grant], [night], object.union(attempt, {"week_minute": 100})).rule == "deny:night"
}

# From office, where ep-a is 10.7.0.2, into lab, where the server is 10.7.0.3 and is called 10.202.0.3 in office.
crossing := object.union(attempt, {
	"point": "interconnect",
	"interconnect": {"vni": {"id": 2, "name": "lab"}, "src": "10.201.0.2", "dst": "10.202.0.3"},
})

joined := object.union(grant, {"interconnect": "office->lab"})

test_only_a_grant_that_names_both_vnis_crosses if {
	verdict([grant], [], crossing).rule == "deny:default"
	verdict([joined], [], crossing).rule == "grant:g"
	every other in ["lab->office", "office->yard", "yard->lab", "office", "->lab"] {
		verdict([object.union(grant, {"interconnect": other})], [], crossing).rule == "deny:default"
	}
}

test_a_grant_to_cross_allows_nothing_within_a_vni if verdict([joined], [], attempt).rule == "deny:default"

test_a_deny_holds_across_unless_it_is_of_another_vni if {
	no := object.union(grant, {"id": "no", "effect": "deny"})
	verdict([joined], [no], crossing).rule == "deny:no"
	verdict([joined], [object.union(no, {"vnis": ["office"]})], crossing).rule == "deny:no"
	verdict([joined], [object.union(no, {"vnis": ["lab"]})], crossing).rule == "deny:no"
	verdict([joined], [object.union(no, {"vnis": ["yard"]})], crossing).rule == "grant:g"
	verdict([joined], [object.union(no, {"interconnect": "office->lab"})], crossing).rule == "deny:no"
	verdict([joined], [object.union(no, {"interconnect": "lab->office"})], crossing).rule == "grant:g"
	verdict([grant], [object.union(no, {"interconnect": "office->lab"})], attempt).rule == "grant:g"
}

test_a_crossing_that_is_not_whole_is_denied if {
	verdict([grant], [], object.union(attempt, {"point": "interconnect"})).rule == "deny:malformed"
	verdict([joined], [], object.union(crossing, {"point": "ingress"})).rule == "deny:malformed"
	verdict([joined], [], object.union(crossing, {"interconnect": {"src": "nowhere"}})).rule == "deny:malformed"
}
