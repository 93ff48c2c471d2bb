# Whether one connection attempt may be: the grants file decides, deny wins, nothing matching is deny.
# Endpoint (egress) and gateway (ingress) ask the same question, so neither can widen what the other allows.
package kairos.flow

default decision := {"allow": false, "rule": "deny:default", "reason": "no grant allows this"}

decision := {"allow": false, "rule": "deny:malformed", "reason": "the input is not whole"} if {
	not whole
} else := {"allow": false, "rule": concat(":", ["deny", denials[0].id]), "reason": denials[0].reason} if {
	count(denials) > 0
} else := {
	"allow": true,
	"rule": concat(":", ["grant", permits[0].id]),
	"reason": permits[0].reason,
	"expires_at": permits[0].expires_at,
	"log": permits[0].log,
} if {
	count(permits) > 0
}

# What is missing makes a rule undefined, and a deny rule that is undefined denies nothing: so a hole is deny by itself.
whole if {
	is_string(input.now)
	is_string(input.vni.name)
	is_party(input.device)
	peer_is_whole
	is_address(input.src.ip)
	is_address(input.dst.ip)
	is_number(input.dst.port)
	is_string(input.proto)
}

peer_is_whole if input.peer == null

peer_is_whole if is_party(input.peer)

is_party(party) if {
	is_string(party.node)
	is_array(party.tags)
	is_array(party.groups)
	is_string(party.owner)
}

is_address(text) if net.cidr_contains("0.0.0.0/0", text)

is_address(text) if net.cidr_contains("::/0", text)

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
