# Does this endpoint's conduct call for its isolation? Here an allow is the isolation, so that on any doubt nobody is cut off:
# what it may reach, the other points deny by themselves. The first rule that fits counts.
package kairos.isolation

default decision := {"allow": false, "rule": "isolation:none", "reason": "nothing calls for it"}

decision := {"allow": true, "rule": concat(":", ["isolation", rule.id]), "reason": rule.reason} if {
	rule := [rule | some rule in data.grants.isolation; fits(rule)][0]
}

fits(rule) if {
	input.device.role == "endpoint"
	has_tag(rule)
	is_over(rule)
}

fits(rule) if {
	input.device.role == "endpoint"
	has_tag(rule)
	fails(rule)
}

has_tag(rule) if count(rule.tags) == 0

has_tag(rule) if {
	some tag in rule.tags
	tag in input.device.tags
}

is_over(rule) if {
	some name, limit in rule.over
	input.counts[name] > limit
}

# So many reports in a row lack something of what is required. A device of which fewer came is given the time.
fails(rule) if {
	count(rule.require) > 0
	count(input.reports) >= rule.reports
	every report in array.slice(input.reports, 0, rule.reports) {
		some fact, value in rule.require
		object.get(report, fact, null) != value
	}
}
