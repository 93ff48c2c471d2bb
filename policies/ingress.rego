# At the gateway, for every connection attempt that comes out of a tunnel or goes into one.
package kairos.ingress

decision := data.kairos.flow.decision
