import asyncio, json, sys
from datetime import timedelta
from seaway.embedded.nats_server import NatsServer
from seaway.brokers.jetstream import connect
from seaway.config import NatsSettings
from seaway.contracts import Message
async def main():
    s=NatsServer()
    s.launch()
    b=await connect(NatsSettings(url=s.url))
    await b.admin.create_stream({"name":"SEA_EVENTS","subjects":["sea.event.>"],"storage":"file","num_replicas":1})
    await b.admin.create_consumer("SEA_EVENTS",{"durable_name":"a__b","ack_policy":"explicit","ack_wait":30*10**9,"max_deliver":5,"max_ack_pending":50})
    def show(i):
        print({k:i.get(k) for k in ("delivered","ack_floor","num_ack_pending","num_pending","num_waiting","ts","paused","pause_remaining")}, i["config"].get("pause_until"))
    msgs=[Message("sea.event.x.v1",b"{}",{"Nats-Msg-Id":str(n)}) for n in range(10)]
    await b.publish("SEA_EVENTS",msgs,timeout=timedelta(seconds=5))
    show(await b.admin.consumer("SEA_EVENTS","a__b"))
    async with b.subscribe("SEA_EVENTS","a__b") as sub:
        got=await sub.next(3,timeout=timedelta(seconds=2))
        await sub.ack(*got)
        show(await b.admin.consumer("SEA_EVENTS","a__b"))
    await b.close()
    await s.stop(); await s.start()
    b=await connect(NatsSettings(url=s.url))
    print("restarted")
    show(await b.admin.consumer("SEA_EVENTS","a__b"))
    info=await b.admin.stream("SEA_EVENTS"); print(info["state"])
    r=await b.admin._api.call("STREAM.INFO.SEA_EVENTS",{"subjects_filter":">"}); print(r["state"])
    await b.close(); s.terminate(); s.remove()
asyncio.run(main())
