-- What `kairos audit search` looks for. The values stay in the event's JSON; only the indexes repeat them, and only where there is one.

CREATE INDEX audit_by_time ON audit (tenant, at);
CREATE INDEX audit_by_source ON audit (tenant, source, seq);
CREATE INDEX audit_by_actor ON audit (tenant, json_extract(body, '$.actor'), seq)
  WHERE json_extract(body, '$.actor') IS NOT NULL;
CREATE INDEX audit_by_subject ON audit (tenant, json_extract(body, '$.subject'), seq)
  WHERE json_extract(body, '$.subject') IS NOT NULL;
CREATE INDEX audit_by_vni ON audit (tenant, json_extract(body, '$.detail.vni'), seq)
  WHERE json_extract(body, '$.detail.vni') IS NOT NULL;
