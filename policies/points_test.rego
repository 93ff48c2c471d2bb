package kairos.points_test

import data.kairos.admission
import data.kairos.egress
import data.kairos.ingress
import data.kairos.interconnect
import data.kairos.isolation
import data.kairos.session

rules := [
	{"id": "gateways", "roles": ["gateway"], "tags": [], "outcome": "hold", "reason": "wait"},
	{"id": "staff", "roles": ["endpoint"], "tags": ["staff"], "outcome": "allow", "reason": ""},
	{"id": "guests", "roles": ["endpoint"], "tags": ["guest"], "outcome": "deny", "reason": "no guests"},
]

judged(device) := decision if {
	decision := admission.decision with data.grants as {"admission": rules} with input as {"device": device}
}

test_admission if {
	judged({"role": "endpoint", "tags": ["staff"]}).rule == "admission:staff"
	judged({"role": "gateway", "tags": []}).hold
	judged({"role": "endpoint", "tags": ["guest"]}).allow == false
	judged({"role": "endpoint", "tags": []}).rule == "deny:default"
}

test_of_admission_rules_that_fit_deny_wins_over_hold_and_hold_over_allow if {
	everyone := {"id": "all", "roles": ["endpoint"], "tags": [], "outcome": "hold", "reason": ""}
	mixed := array.concat([everyone], rules)
	decided := admission.decision with data.grants as {"admission": mixed} with input as {"device": {
		"role": "endpoint",
		"tags": ["staff"],
	}}
	decided.hold
	refused := admission.decision with data.grants as {"admission": mixed} with input as {"device": {
		"role": "endpoint",
		"tags": ["staff", "guest"],
	}}
	refused == {"allow": false, "hold": false, "rule": "admission:guests", "reason": "no guests"}
}

test_both_ends_ask_the_same if {
	nothing := {"allow": [], "deny": []}
	at_endpoint := egress.decision with data.grants as nothing with input as {}
	at_gateway := ingress.decision with data.grants as nothing with input as {}
	at_endpoint == at_gateway
	at_gateway == interconnect.decision with data.grants as nothing with input as {}
}

test_session if {
	sessions := [
		{"id": "staff", "tags": ["staff"], "outcome": "allow", "reason": "", "require": {"disk_encrypted": true}},
		{"id": "lost", "tags": ["lost"], "outcome": "deny", "reason": "reported lost", "require": {}},
		{"id": "kiosks", "tags": ["kiosk"], "outcome": "allow", "reason": "", "require": {}},
	]
	every tags, expected in {
		["staff"]: "session:staff", ["staff", "lost"]: "session:lost",
		["kiosk"]: "session:kiosks", ["guest"]: "deny:default",
	} {
		asked := {"device": {"tags": tags}, "posture": {"disk_encrypted": true}}
		decided := session.decision with data.grants as {"session": sessions} with input as asked
		decided.rule == expected
	}
	without := session.decision with data.grants as {"session": sessions} with input as {"device": {"tags": ["staff"]}, "posture": {}}
	without.rule == "deny:default"
}

rules_of_isolation := [
	{"id": "spoofing", "over": {"spoofed": 600}, "require": {}, "reports": 3, "tags": [], "reason": "not its own"},
	{"id": "disk", "over": {}, "require": {"disk_encrypted": true}, "reports": 2, "tags": ["laptop"], "reason": "plain"},
]

conduct(counts, reports, tags) := decision if {
	asked := {
		"device": {"role": "endpoint", "tags": tags}, "reports": reports,
		"counts": object.union({"forged": 0, "replayed": 0, "spoofed": 0, "duplicates": 0}, counts),
	}
	decision := isolation.decision with data.grants as {"isolation": rules_of_isolation} with input as asked
}

test_isolation_for_what_is_counted if {
	conduct({"spoofed": 601}, [], []).rule == "isolation:spoofing"
	conduct({"spoofed": 600}, [], []).allow == false
	conduct({"forged": 100000, "replayed": 100000}, [], []).allow == false
}

test_isolation_for_reports_in_a_row if {
	good := {"disk_encrypted": true}
	conduct({}, [{}, {"disk_encrypted": false}, good], ["laptop"]).rule == "isolation:disk"
	conduct({}, [{}, good, {}], ["laptop"]).allow == false
	conduct({}, [{}], ["laptop"]).allow == false
	conduct({}, [{}, {}], ["server"]).allow == false
}

test_no_isolation_on_any_doubt if {
	isolation.decision.allow == false with data.grants as {"isolation": rules_of_isolation} with input as {}
	isolation.decision.allow == false with data.grants as {} with input as {}
}
