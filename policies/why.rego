# Not asked by any node: what `kairos why` tells of the grants file. A grant that fits, or all but fits, and what it lacks.
package kairos.why

import data.kairos.flow

grants := [{"kind": kind, "id": grant.id, "lacks": lacks, "reason": grant.reason} |
	some kind in ["deny", "allow"]
	some grant in data.grants[kind].list
	lacks := [condition | some condition in conditions; not holds(condition, grant)]
	count(lacks) <= 1
]

conditions := ["from", "to", "ports", "vnis", "interconnect", "expires_at", "when", "apps", "require"]

holds("from", grant) if {
	some name in grant.from
	name in flow.sources
}

holds("to", grant) if {
	some name in grant.to
	name in flow.destinations
}

holds("ports", grant) if {
	some port in grant.ports
	flow.covers(port)
}

holds("vnis", grant) if flow.in_vni(grant)

holds("interconnect", grant) if flow.crosses(grant)

holds("expires_at", grant) if flow.in_time(grant)

holds("when", grant) if flow.in_window(grant)

holds("apps", grant) if flow.in_app(grant)

holds("require", grant) if flow.has_posture(grant)
