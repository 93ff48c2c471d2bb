# At the gateway, for every connection attempt that would cross from one VNI into another. The same rules over the same grants;
# there only a grant that names both VNIs allows (flow.rego, crosses).
package kairos.interconnect

decision := data.kairos.flow.decision
