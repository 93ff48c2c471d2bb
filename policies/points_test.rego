package kairos.points_test

import data.kairos.admission
import data.kairos.egress
import data.kairos.ingress

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

test_both_ends_ask_the_same if {
	nothing := {"allow": [], "deny": []}
	at_endpoint := egress.decision with data.grants as nothing with input as {}
	at_gateway := ingress.decision with data.grants as nothing with input as {}
	at_endpoint == at_gateway
}
