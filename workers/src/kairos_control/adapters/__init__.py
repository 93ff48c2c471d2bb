"""The ports over Cloudflare's bindings. Only here and in objects/ is anything of the runtime imported."""
