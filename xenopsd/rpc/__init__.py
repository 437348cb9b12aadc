"""JSON-RPC over Unix sockets: who may call, framing, dispatch, answers.

From the wire inwards: `server` (listening, who may connect), `connection` (flow control),
`lines` and `http` (framing), `exchange` (what was asked and not yet answered), `dispatch`
(one message to one call), and `service`, the contract with the daemon behind it.
"""
