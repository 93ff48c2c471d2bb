from workers import DurableObject, Response, WorkerEntrypoint


class Relay(DurableObject):
    pass


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response("hi")
