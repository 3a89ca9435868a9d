"""The worker as a deployment of Ray Serve, beyond one machine: `serve run t2i.server.ray:app`.

Nothing is kept: each request is answered with its pictures, and Ray has the queue.
"""

from t2i.server.ray.deployments import app

__all__ = ["app"]
