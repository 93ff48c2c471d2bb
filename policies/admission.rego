# E2: may this device enroll? Of the admission rules that fit, deny wins over hold and hold over allow; none is deny.
package kairos.admission

default decision := {"allow": false, "hold": false, "rule": "deny:default", "reason": "no admission rule fits"}

decision := answer("deny") if {
	count(fitting("deny")) > 0
} else := answer("hold") if {
	count(fitting("hold")) > 0
} else := answer("allow") if {
	count(fitting("allow")) > 0
}

answer(outcome) := {
	"allow": outcome != "deny",
	"hold": outcome == "hold",
	"rule": concat(":", ["admission", rules[0].id]),
	"reason": rules[0].reason,
} if {
	rules := fitting(outcome)
}

fitting(outcome) := [rule | some rule in data.grants.admission; rule.outcome == outcome; fits(rule)]

fits(rule) if {
	input.device.role in rule.roles
	has_tag(rule)
}

has_tag(rule) if count(rule.tags) == 0

has_tag(rule) if {
	some tag in rule.tags
	tag in input.device.tags
}
