from django.core.asgi import get_asgi_application

from orchestrator.settings import use_profile

use_profile()
application = get_asgi_application()
