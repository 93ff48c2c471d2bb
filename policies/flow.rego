# Whether one connection attempt may be: the grants file decides, deny wins, nothing matching is deny.
# Endpoint (egress) and gateway (ingress) ask the same question, so neither can widen what the other allows.
package kairos.flow

default decision := {"allow": false, "rule": "deny:default", "reason": "no grant allows this"}

decision := {"allow": false, "rule": concat(":", ["deny", denials[0].id]), "reason": denials[0].reason} if {
	count(denials) > 0
} else := {"allow": true, "rule": concat(":", ["grant", permits[0].id]), "reason": permits[0].reason} if {
	count(permits) > 0
}

denials := [grant | some grant in data.grants.deny; applies(grant)]

permits := [grant | some grant in data.grants.allow; applies(grant)]

applies(grant) if {
	in_vni(grant)
	in_time(grant)
	some source in grant.from
	selects(source, input.device, input.src.ip)
	some destination in grant.to
	selects(destination, input.peer, input.dst.ip)
	some port in grant.ports
	covers(port)
}

in_vni(grant) if count(grant.vnis) == 0

in_vni(grant) if input.vni.name in grant.vnis

# Both are RFC 3339 in UTC without fractions, so their order as text is their order in time.
in_time(grant) if grant.expires_at == ""

in_time(grant) if input.now < grant.expires_at

selects(selector, _, _) if selector.kind == "any"

selects(selector, party, _) if {
	selector.kind == "tag"
	selector.value in party.tags
}

selects(selector, party, _) if {
	selector.kind == "group"
	selector.value in party.groups
}

selects(selector, party, _) if {
	selector.kind == "owner"
	selector.value == party.owner
}

selects(selector, party, _) if {
	selector.kind == "node"
	selector.value == party.node
}

selects(selector, _, address) if {
	selector.kind == "cidr"
	net.cidr_contains(selector.value, address)
}

covers(port) if port.proto == "*"

covers(port) if {
	port.proto == input.proto
	port.first <= input.dst.port
	input.dst.port <= port.last
}

covers(port) if {
	port.proto == "icmp"
	input.proto == "icmp"
}
