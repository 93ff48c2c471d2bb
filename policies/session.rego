# T4, and again when the session is renewed: may this endpoint have a tunnel? Deny wins; no rule that fits is deny.
package kairos.session

default decision := {"allow": false, "rule": "deny:default", "reason": "no session rule fits"}

decision := answer("deny") if {
	count(fitting("deny")) > 0
} else := answer("allow") if {
	count(fitting("allow")) > 0
}

answer(outcome) := {
	"allow": outcome == "allow",
	"rule": concat(":", ["session", rules[0].id]),
	"reason": rules[0].reason,
} if {
	rules := fitting(outcome)
}

fitting(outcome) := [rule | some rule in data.grants.session; rule.outcome == outcome; fits(rule)]

fits(rule) if {
	has_tag(rule)
	every fact, value in rule.require {
		input.posture[fact] == value
	}
}

has_tag(rule) if count(rule.tags) == 0

has_tag(rule) if {
	some tag in rule.tags
	tag in input.device.tags
}
