# At the endpoint, before a packet of a new flow leaves it.
package kairos.egress

decision := data.kairos.flow.decision
