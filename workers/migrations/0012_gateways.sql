-- The gateways of a tenant are asked for at every session; without an index of their own all its devices were read.
CREATE INDEX active_gateways ON devices (tenant, enrolled_at, node) WHERE role = 'gateway' AND status = 'active';
