# E2: may this device enroll? The first admission rule that fits decides; none is deny.
package kairos.admission

default decision := {"allow": false, "hold": false, "rule": "deny:default", "reason": "no admission rule fits"}

decision := {
	"allow": first.outcome in {"allow", "hold"},
	"hold": first.outcome == "hold",
	"rule": concat(":", ["admission", first.id]),
	"reason": first.reason,
} if {
	first := fitting[0]
}

fitting := [rule | some rule in data.grants.admission; fits(rule)]

fits(rule) if {
	input.device.role in rule.roles
	has_tag(rule)
}

has_tag(rule) if count(rule.tags) == 0

has_tag(rule) if {
	some tag in rule.tags
	tag in input.device.tags
}
