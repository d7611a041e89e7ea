"""The rules and the event of the contract, as users send them."""

from __future__ import annotations

import json
from typing import Any, Final

import yaml

RULES_FILE: Final = """\
taskTriggerRules:
  - ruleId: order-created-trigger
    ruleName: 订单创建触发数据同步
    eventType: order.created
    condition: "payload.amount > 1000"
    taskName: high-value-order-processing
    taskType: shell
    parameters:
      script: /scripts/process-high-value-order.sh
      timeout: 3600
    priority: HIGH
    enabled: true
    description: 处理高价值订单的后续流程
  - ruleId: payment-completed-trigger
    ruleName: 支付完成触发库存更新
    eventType: payment.completed
    condition: "payload.status == 'SUCCESS'"
    taskName: inventory-update
    taskType: http
    parameters:
      url: http://inventory-service/api/update
      method: POST
      timeout: 300
    priority: MEDIUM
    enabled: true
    description: 支付成功后更新库存信息
"""

EVENT: Final[dict[str, Any]] = json.loads(
    """
{
  "messageId": "msg-20250906-123456",
  "eventType": "order.created",
  "timestamp": "2025-09-06T10:30:00Z",
  "source": "order-service",
  "destination": "schedule-platform",
  "priority": "HIGH",
  "payload": {"orderId": "order-12345", "customerId": "customer-67890", "amount": 999.99, "currency": "CNY"},
  "metadata": {"traceId": "trace-abcdef-123456", "version": "1.0", "schema": "order.created.v1"}
}
"""
)


def contract_rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = yaml.safe_load(RULES_FILE)["taskTriggerRules"]
    return rules
