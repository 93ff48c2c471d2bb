"""What Cloudflare charges for the Workers Paid plan, in US dollars: the list prices beyond what the plan includes.

Read on 2026-11-30 at developers.cloudflare.com: workers/platform/pricing, durable-objects/platform/pricing, d1/platform/pricing,
kv/platform/pricing, r2/pricing, queues/platform/pricing. There is no charge for egress.
"""

from __future__ import annotations

MILLION = 1e6
PLAN_A_MONTH = 5.00
DAYS_A_MONTH = 30

# Of one unit. A "row" is one that a query reads or writes, index entries included.
PRICES = {
    "worker_calls": 0.30 / MILLION,  # requests from outside; calls between Workers and objects are none
    "worker_cpu_s": 0.02 / MILLION * 1e3,  # $0.02 a million milliseconds
    "object_calls": 0.15 / MILLION,  # requests, alarms, and WebSocket messages from a client at 20 to one
    "object_gb_s": 12.50 / MILLION,  # wall clock while an object works, times its memory
    "object_rows_read": 0.001 / MILLION,
    "object_rows_written": 1.00 / MILLION,
    "object_gb_month": 0.20,
    "d1_rows_read": 0.001 / MILLION,
    "d1_rows_written": 1.00 / MILLION,
    "d1_gb_month": 0.75,
    "kv_reads": 0.50 / MILLION,
    "kv_writes": 5.00 / MILLION,
    "r2_writes": 4.50 / MILLION,  # class A
    "r2_reads": 0.36 / MILLION,  # class B
    "r2_gb_month": 0.015,
    "queue_operations": 0.40 / MILLION,  # a message is three of them: written, read, deleted; for each 64 KB
}
QUEUE_OPERATIONS_A_MESSAGE = 3
OBJECT_GB = 0.128  # what an object is billed for, whatever it uses
MESSAGES_A_CALL = 20  # WebSocket messages that count as one request
