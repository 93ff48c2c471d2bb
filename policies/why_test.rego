package kairos.why_test

import data.kairos.flow_test
import data.kairos.why

considered(grant, given) := {{"id": entry.id, "lacks": entry.lacks} | some entry in told} if {
	data_of := {
		"allow": flow_test.indexed([grant]),
		"deny": flow_test.indexed([]),
		"networks": [],
	}
	told := why.grants with data.grants as data_of with input as given
}

test_a_grant_that_fits_lacks_nothing if {
	considered(flow_test.grant, flow_test.attempt) == {{"id": "g", "lacks": []}}
}

test_each_condition_alone_is_told if {
	every condition, change in {
		"from": {"from": ["tag:nobody"]},
		"to": {"to": ["tag:nobody"]},
		"ports": {"ports": [{"proto": "udp", "first": 1, "last": 2}]},
		"vnis": {"vnis": ["lab"]},
		"apps": {"apps": [{"path": "/usr/bin/curl"}]},
		"when": {"windows": [[0, 60]]},
		"require": {"require": {"disk_encrypted": true}},
		"expires_at": {"expires_at": "2020-01-01T00:00:00Z"},
	} {
		considered(object.union(flow_test.grant, change), flow_test.attempt) == {{"id": "g", "lacks": [condition]}}
	}
}

test_a_grant_that_lacks_more_is_not_told if {
	considered(object.union(flow_test.grant, {"to": [], "ports": []}), flow_test.attempt) == set()
}
