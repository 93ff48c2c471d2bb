# Whether one connection attempt may be: the grants file decides, deny wins, nothing matching is deny.
# Endpoint (egress) and gateway (ingress) ask the same question, so neither can widen what the other allows.
#
# data.grants.deny and .allow are each {"list": [grant, ...], "from": {party: [place in the list, ...]}}: only grants that
# name the source are looked at, so ten thousand grants cost what those of one device cost. Of several that apply the first counts.
package kairos.flow

default decision := {"allow": false, "rule": "deny:default", "reason": "no grant allows this"}

decision := {"allow": false, "rule": "deny:malformed", "reason": "the input is not whole"} if {
	not whole
} else := {"allow": false, "rule": concat(":", ["deny", grant.id]), "reason": grant.reason} if {
	grant := first(data.grants.deny.list, denying)
} else := {
	"allow": true,
	"rule": concat(":", ["grant", grant.id]),
	"reason": grant.reason,
	"expires_at": grant.expires_at,
	"log": grant.log,
	"minutes_left": minutes_left,
} if {
	grant := first(data.grants.allow.list, allowing)
}

first(list, places) := list[min({place | some place in places; in_window(list[place])})]

denying := {place | some place in naming(data.grants.deny.from); concerns(data.grants.deny.list[place])}

allowing := {place | some place in naming(data.grants.allow.from); concerns(data.grants.allow.list[place])}

naming(index) := union({{place | some place in index[name]} | some name in sources})

# Apart from the hour of the week.
concerns(grant) if {
	crosses(grant)
	in_vni(grant)
	in_time(grant)
	in_app(grant)
	has_posture(grant)
	some name in grant.to
	name in destinations
	some port in grant.ports
	covers(port)
}

sources := names(input.device, input.src.ip) | {concat(":", ["external", input.attachment]) | input.attachment != ""}

destinations := names(input.peer, input.dst.ip)

# All that a grants file may call this party. A host without an agent has its address, and as a source the node it is attached to.
names(party, address) := union({
	{"*"},
	{concat(":", ["tag", tag]) | some tag in party.tags},
	{concat(":", ["group", group]) | some group in party.groups},
	{concat(":", ["owner", party.owner]) | party.owner != ""},
	{concat(":", ["node", party.node]) | party.node != ""},
	{network | some network in data.grants.networks; net.cidr_contains(network, address)},
})

in_vni(grant) if count(grant.vnis) == 0

in_vni(grant) if input.vni.name in grant.vnis

in_vni(grant) if input.interconnect.vni.name in grant.vnis

# From one VNI into another: an allow must say so and name both. A deny that does not say so holds there too.
crosses(grant) if {
	input.interconnect == null
	grant.interconnect == ""
}

crosses(grant) if grant.interconnect == concat("->", [input.vni.name, input.interconnect.vni.name])

crosses(grant) if {
	is_object(input.interconnect)
	grant.interconnect == ""
	grant.effect == "deny"
}

# Both are RFC 3339 in UTC without fractions, so their order as text is their order in time.
in_time(grant) if grant.expires_at == ""

in_time(grant) if input.now < grant.expires_at

# Windows are minutes of the week in UTC, [first, past the last]; kairos_cli/grants.py turns days and zones into them.
in_window(grant) if count(grant.windows) == 0

in_window(grant) if {
	some window in grant.windows
	window[0] <= input.week_minute
	input.week_minute < window[1]
}

# Until a window of a grant that concerns this connection opens or closes: then it is judged again. 0: none does.
default minutes_left := 0

minutes_left := min(ahead) if count(ahead) > 0

ahead := {until(edge) |
	some grant in array.concat(
		[data.grants.deny.list[place] | some place in denying],
		[data.grants.allow.list[place] | some place in allowing],
	)
	some edge in grant.windows[_]
}

until(edge) := edge - input.week_minute if edge > input.week_minute

until(edge) := (edge + 10080) - input.week_minute if edge <= input.week_minute

in_app(grant) if count(grant.apps) == 0

in_app(grant) if {
	some named in grant.apps
	every fact, value in named {
		program[fact] == value
	}
}

# An allow needs certainty, and a deny none: a fact that the endpoint could not find out is taken for the one that is denied.
in_app(grant) if {
	grant.effect == "deny"
	some named in grant.apps
	every fact, value in named {
		program[fact] in {value, in_doubt[fact]}
	}
}

in_doubt := {"path": "", "sha256": "", "uid": 4294967295, "unit": "?"}

# Only the endpoint sees programs. Where its claim was not heard, an allow counts without, and a deny by program does not count.
in_app(grant) if {
	input.point == "ingress"
	not input.claims.heard
	grant.effect == "allow"
}

program := input.app if input.point == "egress"

program := input.claims.app if input.point in {"ingress", "interconnect"}

# What a grant requires of the device's newest report, fact by fact. A late or missing report is empty and holds nothing.
has_posture(grant) if {
	every fact, value in grant.require {
		input.posture[fact] == value
	}
}

# An endpoint that is reached has no other's report: the gateway in between has asked.
has_posture(_) if {
	input.point == "ingress"
	input.gateway == ""
}

covers(port) if port.proto == "*"

covers(port) if {
	port.proto == input.proto
	port.first <= input.dst.port
	input.dst.port <= port.last
}

# What is missing makes a rule undefined, and a deny rule that is undefined denies nothing: so a hole is deny by itself.
whole if {
	is_string(input.now)
	is_number(input.week_minute)
	is_string(input.vni.name)
	is_string(input.attachment)
	is_party(input.device)
	peer_is_whole
	interconnect_is_whole
	is_address(input.src.ip)
	is_address(input.dst.ip)
	is_string(input.point)
	is_app(input.app)
	is_boolean(input.claims.heard)
	is_app(input.claims.app)
	is_number(input.dst.port)
	is_string(input.proto)
	is_object(data.grants.deny.from)
	is_array(data.grants.networks)
}

is_app(app) if app == null

is_app(app) if {
	is_string(app.path)
	is_string(app.unit)
	is_string(app.sha256)
	is_number(app.uid)
}

interconnect_is_whole if {
	input.interconnect == null
	input.point != "interconnect"
}

interconnect_is_whole if {
	input.point == "interconnect"
	is_string(input.interconnect.vni.name)
	is_address(input.interconnect.src)
	is_address(input.interconnect.dst)
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
